"""A trained generator as a program that runs without this package: ONNX, or TorchScript for LibTorch."""

from dist_calo.deployment.exporting.comparison import Agreement, compare
from dist_calo.deployment.exporting.physical import PhysicalGenerator, Request, physical_module
from dist_calo.deployment.exporting.programs import ExportReport, export_onnx, export_torch, onnx_session

__all__ = [
    "Agreement",
    "ExportReport",
    "PhysicalGenerator",
    "Request",
    "compare",
    "export_onnx",
    "export_torch",
    "onnx_session",
    "physical_module",
]
