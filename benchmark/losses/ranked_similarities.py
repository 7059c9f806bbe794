"""The teacher's list of neighbours, with the student's similarities in its order."""

from torch import Tensor

from benchmark.losses.unit_rows import unit_rows
from benchmark.precision import full_precision


def ranked_similarities(student: Tensor, teacher: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Cosines with the K images of the batch that the teacher finds nearest, best first; each image's first is itself.

    S_m = cos(s_i, t_n), T_m = cos(t_i, t_n), n the m-th neighbour of i in the teacher's space: the gallery is the
    teacher's in both, as where a student's query meets a gallery that the teacher embedded.

    Args:
        student: (B, D).
        teacher: (B, D).
        top_k: K; of a smaller batch, all.

    Returns:
        S and T, both (B, min(K, B)); T descends along its rows.
    """
    s, t = unit_rows(student), unit_rows(teacher)
    with full_precision(t.device):
        across, within = s @ t.T, t @ t.T
    ranked, order = within.topk(min(top_k, len(t)), dim=1)
    return across.gather(1, order), ranked
