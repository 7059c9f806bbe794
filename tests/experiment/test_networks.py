"""Networks with the initial weights of a recipe, and teachers from files."""

import re
from pathlib import Path

import pytest
import torch

from benchmark.engine.files import LAST_CHECKPOINT
from benchmark.errors import UserError
from benchmark.experiment.networks import check_files, deploy_teacher, initialized, teacher_from_file, untrained
from benchmark.experiment.preflight import preflight
from benchmark.model.embedder import IMAGENET_MEAN, IMAGENET_STD, Embedder
from benchmark.model.residual_blocks import build, inner_widths
from benchmark.model.serialize import load_network, save_student
from benchmark.recipe import Network

SMALL = {"channels": [8, 16, 32, 64]}
IMAGENET = (IMAGENET_MEAN, IMAGENET_STD)
VIT = {"backbone": "vit_tiny_patch16_224", "args": {"img_size": 32}}
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def settings(**changes) -> Network:
    return Network(
        **{"backbone": "resnet26", "args": SMALL, "last_stride": 2, "dim": 12, "weights": "random"} | changes
    )


def network(seed: int, **changes) -> Embedder:
    torch.manual_seed(seed)
    return untrained(settings(**changes), identities=5).eval()


def images() -> torch.Tensor:
    return torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class TestStatistics:
    """Images are normalized as for the published weights of the backbone, unless training starts at random."""

    def test_random_weights(self):
        assert initialized(settings(**VIT), 0, None).statistics == IMAGENET

    def test_a_file(self, tmp_path):
        torch.save(untrained(settings(**VIT), 0).state_dict(), tmp_path / "w.pth")
        assert initialized(settings(**VIT, weights=str(tmp_path / "w.pth")), 0, None).statistics == HALF

    def test_published_weights(self, monkeypatch):
        import timm

        create = timm.create_model
        monkeypatch.setattr(timm, "create_model", lambda *args, pretrained, **kwargs: create(*args, **kwargs))
        for name, statistics in (("vit_tiny_patch16_224", HALF), ("resnet26", IMAGENET)):
            assert Embedder(name, pretrained=True).statistics == statistics

    def test_the_teacher(self):
        teacher = build(**settings(**VIT).model_dump(exclude={"weights"}), mean=HALF[0], std=HALF[1])
        assert initialized(settings(**VIT, weights="teacher"), 0, teacher).statistics == HALF

    def test_interpolation(self, tmp_path):
        bicubic = settings(**VIT, image_size=(32, 32))
        torch.save(untrained(bicubic, 0).state_dict(), tmp_path / "w.pth")
        file = str(tmp_path / "w.pth")
        network = initialized(bicubic.model_copy(update={"weights": file}), 0, None)
        assert (network.interpolation, network.architecture["interpolation"]) == ("bicubic", "bicubic")
        assert initialized(bicubic, 0, None).interpolation == "bilinear", "weights are random"
        resnet = untrained(settings(backbone="resnet18.tv_in1k", weights=file, image_size=(32, 32)), 0)
        assert (resnet.interpolation, "interpolation" in resnet.architecture) == ("bilinear", False)
        whole = untrained(settings(**VIT, weights=file), 0)
        assert "interpolation" not in whole.architecture, "it resizes nothing"
        assert untrained(bicubic, 0, network).interpolation == "bicubic"

    def test_normalization(self):
        shifted = Embedder("resnet26", SMALL, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        assert torch.equal(shifted.mean, torch.zeros(3, 1, 1)) and torch.equal(
            shifted.std, torch.full((3, 1, 1), 255.0)
        )
        assert "mean" in shifted.architecture and "mean" not in network(1).architecture


class TestInnerWidths:
    def test_are_those_of_the_recipe(self, tmp_path):
        found = [3, 4, *[5] * 12, 6, 7]  # a ResNet-26 has eight blocks of two inner widths
        narrow = initialized(settings(inner_widths=found), 5, None).eval()
        assert [inner.width for inner in inner_widths(narrow)] == found
        save_student(narrow, tmp_path / "student.pt", (32, 32))
        assert torch.allclose(load_network(tmp_path / "student.pt")(images()), narrow(images()), atol=1e-5)
        assert settings(inner_widths=found).title() == "resnet26 8-16-32-64 inner 3-4-5-5-5-5-5-5-5-5-5-5-5-5-6-7"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"inner_widths": [4]}, "inner_widths: 1 numbers are given, but resnet26 has 16 inner widths"),
            ({"inner_widths": [9, *[2] * 15]}, "layer1.0.conv1 has 8 channels, which is fewer than 9"),
            ({**VIT, "inner_widths": [4]}, "has no channels that could be pruned"),
        ],
    )
    def test_that_do_not_fit(self, changes, message):
        with pytest.raises(UserError, match=message):
            untrained(settings(**changes), 5)


class TestTeacherFromFile:
    @pytest.fixture
    def student_file(self, tmp_path):
        deployed = deploy_teacher(network(1), images())
        save_student(deployed, tmp_path / "student.pt", (64, 64))
        return tmp_path / "student.pt"

    def test_weights(self, tmp_path):
        torch.save({"model": network(1).state_dict()}, tmp_path / "w.pth")
        teacher = teacher_from_file(settings(), tmp_path / "w.pth", 5)
        assert torch.equal(teacher(images()), network(1)(images())) and teacher.head is not None
        assert teacher_from_file(settings(), tmp_path / "w.pth", 6).head is None

    def test_student_file(self, student_file):
        teacher = teacher_from_file(settings(), student_file, 5)
        for embed in (teacher, deploy_teacher(teacher, images())):
            torch.testing.assert_close(embed(images()), network(1)(images()), rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"dim": 24}, "dim is 12 in the file and 24 in the recipe; set teacher.network.dim"),
            ({"backbone": "resnet14t"}, "backbone is 'resnet26' in the file"),
            ({"pool": "gem"}, "pool is 'avg' in the file"),
        ],
    )
    def test_student_file_of_another_architecture(self, changes, message, student_file):
        with pytest.raises(UserError, match=re.escape(message)):
            teacher_from_file(settings(**changes), student_file, 5)

    def test_compressed_student_file(self, tmp_path):
        from benchmark.model.surgery import keep_channels, keep_inputs, keep_outputs

        compressed, rows = network(1), torch.tensor([0, 1, 5])
        block = compressed.backbone.layer4[0]
        keep_outputs(block.conv2, rows)
        keep_channels(block.bn2, rows)
        keep_inputs(block.conv3, rows)
        save_student(compressed, tmp_path / "student.pt", (32, 32))
        with pytest.raises(UserError, match="is of a compressed network"):
            teacher_from_file(settings(), tmp_path / "student.pt", 5)

    def test_student_cannot_start_from_a_deployed_teacher(self, student_file):
        teacher = teacher_from_file(settings(), student_file, 5)
        with pytest.raises(UserError, match=r"student\.weights: 'teacher' needs .* run folder"):
            initialized(settings(weights="teacher"), 5, teacher)


class TestCheckFiles:
    @pytest.fixture
    def file(self, tmp_path):
        torch.save(network(1).state_dict(), tmp_path / "w.pth")
        return str(tmp_path / "w.pth")

    def test_accepts_what_fits(self, file):
        check_files(settings(), settings(weights=file), file)
        check_files(settings(weights=file), settings(), None)

    @pytest.mark.parametrize("key", ["teacher.checkpoint", "teacher.network.weights", "student.weights"])
    def test_names_the_key(self, key, file):
        wide = settings(dim=24, weights="random" if key == "teacher.checkpoint" else file)
        teacher, student = (settings(), wide) if key == "student.weights" else (wide, settings())
        checkpoint = file if key == "teacher.checkpoint" else None
        with pytest.raises(UserError, match=rf"{key}: weights .* do not fit resnet26"):
            check_files(teacher, student, checkpoint)

    def test_classifier(self, file, tmp_path):
        check_files(settings(), settings(), file, classifier=True)
        torch.save({k: v for k, v in network(1).state_dict().items() if k != "head.weight"}, tmp_path / "none.pth")
        with pytest.raises(UserError, match=r"teacher\.checkpoint: .*none\.pth has no classifier"):
            check_files(settings(), settings(), str(tmp_path / "none.pth"), classifier=True)

    def test_folder_of_a_run(self, tmp_path):
        (tmp_path / LAST_CHECKPOINT).parent.mkdir()
        (tmp_path / "record.json").touch()
        torch.save({"student": network(1).state_dict()}, tmp_path / LAST_CHECKPOINT)
        check_files(settings(), settings(), str(tmp_path))
        with pytest.raises(UserError, match=r"teacher\.checkpoint: .*do not fit"):
            check_files(settings(dim=24), settings(), str(tmp_path))

    def test_is_part_of_the_checks_before_a_run(self, tiny, tmp_path):
        (tmp_path / "w.pth").write_text("<html>")
        with pytest.raises(UserError, match=r"student\.weights: weights .* is a web page"):
            preflight(tiny("kd", f"student.weights={tmp_path / 'w.pth'}"))


@pytest.mark.slow
class TestCommands:
    """After a run with a teacher from a file, the commands work as with a trained teacher."""

    @pytest.fixture(params=["student.pt", "checkpoints/last.pt", "foreign.pth"])
    def run(self, request, command_line, data_root, tiny_config, teacher, tmp_path):
        """Runs rkd with the teacher from a file, and returns the run's folder and a function that runs commands."""
        file = teacher / request.param
        if request.param == "foreign.pth":
            weights = torch.load(teacher / LAST_CHECKPOINT, weights_only=True)["student"]
            file = tmp_path / request.param
            torch.save({"state_dict": {f"module.{name}": value for name, value in weights.items()}}, file)
        places = ("--data-root", data_root, "--device", "cpu")
        settings = ("--set", "train.schedule.epochs=1", "--set", f"teacher.checkpoint={file}")
        boards = ("--work-dir", tmp_path / "runs", "--leaderboards", tmp_path / "boards")
        done = command_line("run", "--method", "rkd", "--config", tiny_config, *settings, *places, *boards)
        assert done.code == 0, done.err
        (folder,) = (tmp_path / "runs" / "glyphs" / "rkd").glob("seed*")
        return folder, lambda *arguments: command_line(*arguments, *places)

    def test_evaluate_inspect_and_reproduce(self, run, teacher, tmp_path):
        folder, command = run
        record = next((tmp_path / "boards" / "records").glob("*rkd*.json"))
        for arguments in (
            ("evaluate", "--run", folder, "--gallery", "teacher"),
            ("inspect", folder, "--worst", 3),
            ("reproduce", record, "--work-dir", tmp_path / "again"),
        ):
            done = command(*arguments)
            assert done.code == 0, (arguments, done.err)

    def test_a_changed_or_missing_teacher_is_refused(self, run):
        folder, command = run
        match = re.search(r"checkpoint: (.*)", (folder / "recipe.yaml").read_text())
        assert match
        file = Path(match[1])
        if file.name != "foreign.pth":
            pytest.skip("the file of a run that other tests use")
        content = torch.load(file, weights_only=True)
        torch.save({name: {key: value + 1 for key, value in state.items()} for name, state in content.items()}, file)
        for arguments in (("evaluate", "--run", folder, "--gallery", "teacher"), ("inspect", folder)):
            done = command(*arguments)
            assert done.code == 2 and "is another one than" in done.err
        file.unlink()
        done = command("evaluate", "--run", folder, "--gallery", "teacher")
        assert done.code == 2 and f"is missing: there is no {file}" in done.err

    def test_compare_and_check(self, run, student, command_line, tmp_path):
        folder, _ = run
        for arguments in (
            ("compare", folder, student, "--output", tmp_path / "compare.svg"),
            ("leaderboard", "--folder", tmp_path / "boards", "--check"),
        ):
            done = command_line(*arguments)
            assert done.code == 0, (arguments, done.out, done.err)
