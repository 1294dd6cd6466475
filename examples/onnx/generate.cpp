// Showers from an exported file alone: the file says which detector it is for, and which random numbers it needs.
//
//     generate MODEL.onnx ENERGY_GEV [SHOWERS] [SEED] [THETA_RAD]
//
// Prints the mean visible energy, the mean number of cells with energy, and the mean energy of each layer.

#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <random>
#include <sstream>
#include <string>
#include <vector>

namespace {

std::string said(const Ort::Session& session, const std::string& key)
{
  Ort::AllocatorWithDefaultOptions allocator;
  auto text = session.GetModelMetadata().LookupCustomMetadataMapAllocated(key.c_str(), allocator);
  return text ? text.get() : "";
}

// The numbers of "[25, 25, 25]" or of "10 100".
std::vector<double> numbers(std::string text)
{
  for (char& c : text)
    if (c == '[' || c == ']' || c == ',') c = ' ';
  std::istringstream stream(text);
  std::vector<double> found;
  for (double number; stream >> number;) found.push_back(number);
  return found;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 3) {
    std::fprintf(stderr, "usage: generate MODEL.onnx ENERGY_GEV [SHOWERS] [SEED] [THETA_RAD]\n");
    return 2;
  }
  const float energy = std::strtof(argv[2], nullptr);
  const std::int64_t showers = argc > 3 ? std::atoll(argv[3]) : 100;
  std::mt19937_64 engine(argc > 4 ? std::strtoull(argv[4], nullptr, 10) : 1);
  const float theta = argc > 5 ? std::strtof(argv[5], nullptr) : 1.5707963F;

  Ort::Env environment(ORT_LOGGING_LEVEL_WARNING, "generate");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  Ort::Session session(environment, argv[1], options);

  const std::string unit = said(session, "output.unit"), kind = said(session, "geometry.kind");
  const auto layer_cells = numbers(said(session, "geometry.layer_cells"));
  const auto range = numbers(said(session, "training.energy.GeV"));
  if (unit.empty() || layer_cells.empty()) {
    std::fprintf(stderr, "%s: no description inside; write it with `dist-calo export`\n", argv[1]);
    return 2;
  }
  if (range.size() == 2 && (energy < range[0] || energy > range[1]))
    std::fprintf(stderr, "%g GeV is outside of the %g to %g GeV of training\n", energy, range[0], range[1]);

  // One buffer an input: conditions are the same in all showers, random numbers are drawn.
  std::vector<std::string> names;
  std::vector<std::vector<float>> buffers;
  std::vector<Ort::Value> inputs;
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform;
  Ort::AllocatorWithDefaultOptions allocator;
  const std::size_t count = session.GetInputCount();
  buffers.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    names.emplace_back(session.GetInputNameAllocated(i, allocator).get());
    const auto type = session.GetInputTypeInfo(i);
    const std::int64_t columns = type.GetTensorTypeAndShapeInfo().GetShape().at(1);
    auto& buffer = buffers.emplace_back(static_cast<std::size_t>(showers * columns));
    for (float& value : buffer) {
      if (names[i] == "energy") value = energy;
      else if (names[i] == "theta") value = theta;
      else if (names[i] == "normal") value = normal(engine);
      else value = uniform(engine);
    }
    const std::array<std::int64_t, 2> size{showers, columns};
    inputs.push_back(Ort::Value::CreateTensor<float>(memory, buffer.data(), buffer.size(), size.data(), 2));
  }

  std::vector<const char*> input_names;
  for (const auto& name : names) input_names.push_back(name.c_str());
  const auto output_name = session.GetOutputNameAllocated(0, allocator);
  const char* output_names[] = {output_name.get()};
  const auto outputs =
    session.Run(Ort::RunOptions{nullptr}, input_names.data(), inputs.data(), count, output_names, 1);
  const float* cells = outputs.front().GetTensorData<float>();
  const std::size_t total = outputs.front().GetTensorTypeAndShapeInfo().GetElementCount();
  const std::size_t per_shower = total / static_cast<std::size_t>(showers);

  // Which layer a cell is in: the last axis of a grid is the depth; elsewhere a layer's cells are in one run.
  std::vector<std::size_t> layer_of(per_shower);
  if (kind == "voxel_grid") {
    for (std::size_t cell = 0; cell < per_shower; ++cell) layer_of[cell] = cell % layer_cells.size();
  } else {
    std::size_t cell = 0;
    for (std::size_t layer = 0; layer < layer_cells.size(); ++layer)
      for (int i = 0; i < static_cast<int>(layer_cells[layer]); ++i) layer_of.at(cell++) = layer;
  }

  std::vector<double> profile(layer_cells.size(), 0.0);
  double visible = 0.0, hits = 0.0;
  for (std::size_t i = 0; i < total; ++i) {
    profile[layer_of[i % per_shower]] += cells[i] / static_cast<double>(showers);
    visible += cells[i] / static_cast<double>(showers);
    hits += (cells[i] > 0.0F) / static_cast<double>(showers);
  }
  std::printf("%lld showers of %g GeV\nvisible %.9g %s\nhits %.9g\n", static_cast<long long>(showers), energy,
              visible, unit.c_str(), hits);
  for (std::size_t layer = 0; layer < profile.size(); ++layer)
    std::printf("layer %zu %.9g\n", layer, profile[layer]);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "generate: %s\n", error.what());
  return 1;
}
