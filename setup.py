"""One distribution: the core, its Python API, three backend plugins and the kernels they share."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGES = {
    **{
        name: name.replace(".", "/")
        for name in find_packages(include=["unipruning", "unipruning_core", "unipruning_core.*"])
    },
    "unipruning_cpu": "backends/cpu/unipruning_cpu",
    "unipruning_cuda": "backends/cuda/unipruning_cuda",
    "unipruning_npu": "backends/npu/unipruning_npu",
    "unipruning_kernels": "kernels/unipruning_kernels",
}
# of export, described in one module
FORMATS = ["compressed-tensors", "gguf", "packed", "safetensors", "semi-structured"]

DOCS = ["sphinx>=8.1", "docutils>=0.21", "myst-parser>=4", "furo>=2024.8.6", "sphinx-argparse-cli>=1.19"]

setup(
    name="unipruning",
    version="0.2.0",
    description="Post-training pruning of large language models by mirror descent, on CUDA GPUs, Ascend NPUs and CPUs",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    package_data={"": ["py.typed", "*.c", "*.json", "*.html", "*.css", "*.js"]},
    # torch is not pinned: on an Ascend server torch_npu determines its version
    install_requires=[
        "torch>=2.6",
        "transformers>=4.56",
        "datasets>=3",
        "pyarrow>=15",
        "pluggy>=1.5",
        "safetensors>=0.4.3",
        "numpy>=1.26",
        "tqdm>=4.60",
        "huggingface_hub>=0.25",
        "filelock>=3.12",
        "PyYAML>=6",
        "jinja2>=3.1",
    ],
    extras_require={
        "cuda": ["triton>=3.6,<4; platform_system == 'Linux'"],
        "npu": ["torch-npu>=2.7.1; platform_system == 'Linux'"],
        "eval": ["lm-eval>=0.4.13"],
        "plot": ["matplotlib>=3.8"],
        "tune": ["peft>=0.18", "accelerate>=1"],  # Trainer needs the second
        "many": ["accelerate>=1"],  # a model over several devices
        # GGUF, the scores of some tokenizers in it, and the newest layouts of codes
        "export": ["gguf>=0.10", "sentencepiece>=0.2", "compressed-tensors>=0.20"],
        "demo": ["gguf>=0.10", "transformers>=5"],
        "docs": DOCS,
        "dev": [
            *DOCS,
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.9",
            "mypy>=1.14",
            "typos>=1.29",
            "build>=1.2",
            "gguf>=0.10",
            "sentencepiece>=0.2",
            "compressed-tensors>=0.20",
            "accelerate>=1",
            "peft>=0.18",
            "lm-eval>=0.4.13",
            "matplotlib>=3.8",
            "bitsandbytes>=0.46; platform_system == 'Linux'",
        ],
    },
    entry_points={
        "console_scripts": ["unipruning = unipruning_core.cli.main:main"],
        "unipruning.backends": ["cpu = unipruning_cpu", "cuda = unipruning_cuda", "npu = unipruning_npu"],
        "unipruning.exporters": [
            f"{name} = unipruning_core.export.builtin:{name.replace('-', '_')}" for name in FORMATS
        ],
    },
)
