#!/bin/sh
# The C++ headers of ONNX Runtime from Debian 13's package, unpacked into a folder without installing anything, for
# systems of which no package has them: get_headers.sh DIR, then make INCLUDE=DIR/usr/include/onnxruntime.
set -eu
folder=${1:?usage: get_headers.sh DIR}
mkdir -p "$folder/apt/lists/partial" "$folder/apt/cache/archives/partial"
folder=$(cd "$folder" && pwd)
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main" \
  > "$folder/apt/trixie.list"
cd "$folder/apt"
for command in update "download libonnxruntime-dev"; do
  # shellcheck disable=SC2086  # the command is two words
  apt-get -qq -o Dir::Etc::sourcelist="$PWD/trixie.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$PWD/lists" \
    -o Dir::Cache="$PWD/cache" -o APT::Sandbox::User=root $command < /dev/null
done
dpkg -x libonnxruntime-dev_*.deb "$folder"
rm -r "$folder/apt"
