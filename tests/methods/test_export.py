"""Students of all methods that compress, in other runtimes."""

import pytest
import torch
from torch.nn import functional as F

from benchmark import METHODS, Method, Progress, Student
from benchmark.deployment.export import export_student
from benchmark.deployment.runtimes import Onnx, OpenVino, TorchExport
from benchmark.methods.cdd import CDD
from benchmark.methods.deap import DEAP
from benchmark.methods.resrep import ResRep
from benchmark.methods.slimming import Slimming
from benchmark.methods.uniform import Uniform

COMPRESSING: dict[str, Method] = {
    "cdd": CDD(reset_from=0.0),
    "deap": DEAP(lasso=0.01, threshold=1e-5),
    "resrep": ResRep(target_macs=0.01, mask_from=0.0, mask_every=1, mask_rows=3, lasso=0.01),
    "slimming": Slimming(lasso=0.01, target_macs=0.75),
    "uniform": Uniform(target_macs=0.6),
}


def test_every_method_that_compresses_is_tested():
    assert {name for name in METHODS.names() if METHODS.find(name).compresses} == COMPRESSING.keys()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "cdd" else pytest.mark.slow) for name in COMPRESSING]
)
def test_same_embeddings(rig, name, tmp_path, onnx_once):
    made = rig(COMPRESSING[name])
    made.step()
    if hasattr(made.method, "sites"):
        made.vanish_share(0.3)
    made.end_epoch(2)
    made.method.after_epoch(made.student, Progress(epoch=3, epochs=4, step=2))
    student = Student(made.deploy(tmp_path / "student.pt"))
    widths = {name: value.shape for name, value in student.network.state_dict().items()}
    assert any(widths[name] != value.shape for name, value in made.teacher.state_dict().items() if name in widths)
    with torch.no_grad():
        expected = F.normalize(student(made.images))
    for runtime in (TorchExport, Onnx, OpenVino):
        exported = export_student(student, tmp_path, runtime)
        assert float((exported(made.images) - expected).abs().max()) < 1e-5, runtime
        assert float((exported(made.images[:1]) - expected[:1]).abs().max()) < 1e-5, runtime
