"""One thread for torch: on busy cores, two that wait for each other make a small network a hundred times slower."""

import torch

torch.set_num_threads(1)
