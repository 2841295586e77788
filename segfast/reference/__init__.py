"""Plain-PyTorch twins of the compiled ops: what tests compare with and what runs uncompiled.

Each takes the arguments of ``torch.ops.segfast.<op>`` and returns what the kernel returns, in the
same dtype and memory format. They are written for clarity, and use PyTorch's own layers where it
has them.
"""
