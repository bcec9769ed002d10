"""Definitions of all figures that `wamkit bench` prints: what each includes and excludes."""

STAGES = {
    "images": "JPEG bytes of a 480 x 640 image a camera to uint8 tensors; not in a chunk",
    "camera layout": "crop, resize and place all views on the canvas, from tensors on the device",
    "text": "lookup of a cached prompt: embeddings and prompt cache",
    "text, new": "a prompt the policy has not met, through the text encoder; not in a chunk",
    "conditioner": "the backbone's conditioner of image or prompt",
    "VAE": "pixels of all views to latents",
    "prefill": "prefill: one pass of the observation, whose KV cache is kept",
    "step": "one evaluation of the network in the denoising loop",
    "network, one graph": "prefill and all steps as one recorded CUDA graph, inputs copied in",
    "decode of actions": "normalized values to physical units on the CPU",
    "between stages": "copies to the device, noise, solver, bookkeeping",
    "chunk": "policy.act: tensors of images in, actions in physical units on the CPU out",
}
"""What stages are of."""

FIGURES = {
    "p95 ms": "what 19 of 20 calls keep within; of fewer than 20 calls the longest",
    "share": "of the median chunk whose stages are waited for one by one, not of the row chunk",
    "GFLOP": "of a call: matrix products, attention and convolutions, counted as they run in eager",
    "MB": "what these read and write, every operand once, as if nothing stayed in a cache",
    "floor": "the longer of GFLOP and MB at the roofline of this run, other work taken to be free; "
    "in 8 bits products can be below it, since the roofline is of the dtype of the spec",
    "roofline": "the fastest of 14 copies of random bytes, and of 14 products of random matrices, "
    "half of them before the chunks and half after",
    "control": "actions of a chunk over its median time: a chunk is ready when the last one has "
    "been played, if nothing else runs here; images, network and robot are not in it",
    "first chunk": "after policy.set_mode: compilation, recording and buffers; not loading",
    "peak memory": "CPU: the most this process ever held, loading and libraries included; "
    "GPU: of tensors, while the chunks ran",
    "framework": "processor time on a CPU, time on a GPU: of whole chunks in eager, against the "
    "same parts, and the same operations of torch between them, called by hand with the same "
    "tensors; quartiles of the iterations in brackets",
}
"""What columns and other figures are of."""
