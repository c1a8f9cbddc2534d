import os
import re
import shlex
import subprocess
from pathlib import Path

import torch
from setuptools import find_packages, setup
from torch.utils.cpp_extension import BuildExtension, CppExtension

ROOT = Path(__file__).parent


def sources():
    """Every C++ source: csrc/*.cpp (python.cpp included) and the CPU kernels."""
    found = [*ROOT.glob("csrc/*.cpp"), *ROOT.glob("csrc/cpu/*.cpp")]
    return sorted(str(path.relative_to(ROOT)) for path in found)


def version():
    """The one place that has it is the package."""
    text = (ROOT / "torch_maxpool" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]


def link_args():
    """clang calls OpenMP by names that the runtime in PyTorch's wheel does not have, so it must bring its own."""
    compiler = os.environ.get("CXX", "c++")
    text = subprocess.run([*compiler.split(), "--version"], capture_output=True, text=True, check=False).stdout
    return ["-fopenmp"] if "clang" in text else []


# -fopenmp: without it at::parallel_for is serial. -g0: Python's own flags ask for debug symbols.
COMPILE_FLAGS = ["-O3", "-g0", "-fopenmp", "-fvisibility=hidden", "-Wall", "-Wno-unknown-pragmas"]
# Further flags of compiler and linker, such as "--coverage -O0" or "-fsanitize=address -O1".
INSTRUMENTS = shlex.split(os.environ.get("TORCH_MAXPOOL_CXXFLAGS", ""))


class Build(BuildExtension):
    """Also records which PyTorch the extension is for; torch_maxpool/_library.py reads it."""

    def run(self):
        super().run()
        folder = Path(self.get_ext_fullpath("torch_maxpool._C")).parent
        (folder / "_built_for.py").write_text(f'TORCH_VERSION = "{torch.__version__}"\n', encoding="utf-8")


setup(
    name="torch-maxpool",
    version=version(),
    description="Max pooling for PyTorch in C++: every kind, compact saved state, exact tiling on request",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="BSD-3-Clause",
    python_requires=">=3.10",
    packages=find_packages(include=["torch_maxpool", "torch_maxpool.*"]),
    package_data={"torch_maxpool": ["py.typed"]},
    ext_modules=[
        CppExtension(
            "torch_maxpool._C",
            sources(),
            define_macros=[("AT_PER_OPERATOR_HEADERS", None)],
            extra_compile_args=[*COMPILE_FLAGS, *INSTRUMENTS],
            extra_link_args=[*link_args(), *INSTRUMENTS],
        )
    ],
    cmdclass={"build_ext": Build},
    install_requires=["torch", "numpy"],
    extras_require={
        "digits": ["scikit-learn", "tqdm"],
        "networks": ["monai"],  # and pip install --no-deps pytorchcv
        "test": ["pytest", "hypothesis", "expecttest", "onnx", "onnxscript", "onnxruntime"],
    },
)
