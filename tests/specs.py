"""A small spec as text, which tests of the command line write to a file."""

TOY = """
[backbone]
name = "toy"
depth = 2
[vae]
name = "pixel_shuffle"
strides = [4, 8, 8]
[text_encoder]
name = "bytes"
[action_head]
name = "mot"
width = 32
mlp_dim = 64
[paradigm]
name = "single_pass"
[actions]
chunk_size = 8
groups = [{name = "arm", size = 3, kind = "delta"}, {name = "gripper", size = 1}]
[state]
size = 2
[cameras]
views = [{name = "front", size = [32, 32]}]
"""
