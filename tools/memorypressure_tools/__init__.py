"""What tests, demo and benchmarks run besides the product: pinned servers, a control plane, runners."""
