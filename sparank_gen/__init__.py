"""A compiler from specs of multimodal fusion modes to torch modules, tests and documentation."""
