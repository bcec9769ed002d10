"""The published layouts of the tiny autoencoders; their names are ours.

Those for video come from github.com/madebyollin/taehv: one file each, `taew2_1`, `taew2_2`,
`taeltx_2` or `taeltx2_3`, pickled or in its folder `safetensors`. The image one comes from
huggingface.co/madebyollin/taef1, in the names of diffusers' `AutoencoderTiny`.
"""

from wamkit.checkpoints.safetensors import CheckpointLayout

VIDEO = (CheckpointLayout("taehv", r"^decoder\.3\.conv\.0\.weight$"),)
IMAGE = (CheckpointLayout("diffusers", r"^decoder\.layers\.2\.conv\.0\.weight$"),)
