"""From a spec to actions in ten lines: build a policy, show it a photograph, tell it what to do."""

from pathlib import Path

import wamkit

HERE = Path(__file__).parent


def main() -> None:
    """Build the policy, act on one photograph, and imagine the future."""
    policy = wamkit.build(HERE / "fastwam.toml", tiny=True)  # tiny: random weights, any laptop
    seen = wamkit.Observation(
        images=dict.fromkeys(policy.cameras.boxes, HERE / "images" / "coffee.jpg"),
        state=[0.0] * policy.spec.state.size,
        prompt="pick up the coffee cup",
    )
    chunk = policy.act(seen, seed=0)
    print(f"{chunk.values.shape[1]} actions of {', '.join(chunk.names)} at {chunk.control_hz:g} Hz")
    for i, action in enumerate(chunk.values[0, :4]):
        print(f"{i / chunk.control_hz:5.2f} s  " + "  ".join(f"{value:+.3f}" for value in action))

    future = policy.imagine(seen, seed=0)
    print(f"imagined {future.canvas.shape[2] - future.observed} frames after {future.observed}")


if __name__ == "__main__":
    main()
