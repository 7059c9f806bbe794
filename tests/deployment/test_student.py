"""Students: their input, embedding images, files and folders, and the Hub's interface without a network."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.nn import functional as F

from benchmark import Student, UserError, load_student
from benchmark.data.decode import BrokenImage, decode, eval_transform
from benchmark.deployment.student import image_files
from benchmark.experiment.experiment import Experiment
from benchmark.model.embedder import Embedder
from benchmark.model.serialize import save_student, weights_hash
from benchmark.results.record import Record

BLUE = (0, 0, 255)


def batch(count: int = 2) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, 24, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


class TestInput:
    def test_is_known(self, tiny_student):
        assert (tiny_student.image_size, tiny_student.dim, tiny_student.device.type) == ((24, 32), 12, "cpu")
        assert (tiny_student.mean, tiny_student.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        assert not tiny_student.training

    def test_floats_from_0_to_1_are_the_same_images(self, tiny_student):
        assert torch.equal(tiny_student(batch() / 255), tiny_student(batch()))

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (batch().float(), r"floats must be from 0 to 1, not from 0 to 255: divide them by 255"),
            (batch() / 127.5 - 1, r"not from -1 to 1: do not normalize them"),
            (torch.full((2, 3, 24, 32), torch.nan), "not from nan to nan: do not normalize them"),
            (batch()[..., :24], r"expects \(B, 3, 24, 32\) uint8 .*, not \(2, 3, 24, 24\) uint8: resize them"),
            (batch()[0], r"not \(3, 24, 32\) uint8: add the dimension of the batch with images\[None\]"),
            (batch().permute(0, 2, 3, 1), r"use images.permute\(0, 3, 1, 2\)"),
            (batch().short(), "not .* int16: do not scale or normalize the images"),
            (batch().numpy(), "not ndarray: convert it"),
        ],
        ids=["0 to 255", "normalized", "NaN", "size", "one image", "channels last", "integers", "array"],
    )
    def test_other_input_is_refused_in_one_sentence(self, tiny_student, images, message):
        with pytest.raises(UserError, match=message) as raised:
            tiny_student(images)
        assert "\n" not in str(raised.value) and not str(raised.value).endswith(".")


class TestTransform:
    def test_a_file_is_read_as_in_evaluation(self, tiny_student, pictures):
        for path in image_files(pictures(6)):
            expected = eval_transform((24, 32))(decode(path, (24, 32)))
            assert torch.equal(tiny_student.transform(path), expected)
            assert torch.equal(tiny_student.transform(str(path)), expected)

    @pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "CMYK", "I;16", "1"])
    def test_an_image_of_pillow_is_converted_as_its_file(self, tiny_student, mode, tmp_path):
        pixels = np.random.default_rng(0).integers(256, size=(30, 50, 4), dtype=np.uint8)
        image = Image.fromarray(pixels, "RGBA")
        if mode == "I;16":
            image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)
        elif mode != "RGBA":
            image = image.convert("LA" if mode == "LA" else "RGB").convert(mode)
        path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
        image.save(path)
        assert torch.equal(tiny_student.transform(image), tiny_student.transform(path))

    def test_an_image_of_pillow_is_turned_upright(self, tiny_student):
        image = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6) * 10)
        turned = image.transpose(Image.Transpose.ROTATE_90)
        turned.getexif()[0x0112] = 6  # to be turned clockwise
        assert torch.equal(tiny_student.transform(turned), tiny_student.transform(image))

    def test_transparency_shows_the_background_of_the_training(self, tmp_path):
        save_student(Embedder("test_resnet", dim=4), tmp_path / "student.pt", (32, 32), background=BLUE)
        tiny_student = load_student(tmp_path / "student.pt")
        pixels = tiny_student.transform(Image.new("RGBA", (40, 40), (255, 0, 0, 0)))
        assert pixels.float().mean((1, 2)).tolist() == list(BLUE)
        tiny_student.save_pretrained(tmp_path / "folder")
        assert load_student(tmp_path / "folder").transform.background == BLUE

    def test_it_is_white_by_default(self, tiny_student):
        assert tiny_student.transform(Image.new("LA", (9, 9), (0, 0))).min() == 255

    @pytest.mark.parametrize("image", [np.zeros((9, 9, 3), np.uint8), torch.zeros(3, 9, 9), None, 3])
    def test_other_types(self, tiny_student, image):
        with pytest.raises(UserError, match="must be a path or an image of Pillow, not "):
            tiny_student.transform(image)

    def test_damaged_image(self, tiny_student, pictures):
        path = image_files(pictures(1))[0]
        path.write_bytes(path.read_bytes()[:60])
        for image in (path, Image.open(path)):
            with pytest.raises(BrokenImage, match="cannot be read: it is damaged"):
                tiny_student.transform(image)


class TestEmbed:
    def test_equals_one_image_at_a_time(self, tiny_student, pictures):
        folder = pictures(7)
        embeddings = tiny_student.embed(folder, batch_size=3)
        assert embeddings.shape == (7, 12) and embeddings.dtype == torch.float32
        for path, embedding in zip(image_files(folder), embeddings, strict=True):
            alone = F.normalize(tiny_student(tiny_student.transform(path)[None]))[0]
            torch.testing.assert_close(embedding, alone, rtol=0, atol=1e-6)
        assert (embeddings @ embeddings.T - torch.eye(7)).max() < 0.9999  # they are not all the same

    def test_forms_of_input(self, tiny_student, pictures):
        paths = image_files(pictures(5))
        expected = tiny_student.embed(paths)
        stacked = torch.stack([tiny_student.transform(path) for path in paths])
        images = [Image.open(path) for path in paths]
        for form in (map(str, paths), images, stacked, stacked / 255, (path for path in paths)):
            torch.testing.assert_close(tiny_student.embed(form, batch_size=2), expected, rtol=0, atol=1e-6)
        for single in (paths[0], str(paths[0]), images[0]):
            torch.testing.assert_close(tiny_student.embed(single), expected[:1], rtol=0, atol=1e-6)
        assert tiny_student.embed([]).shape == (0, 12)

    def test_order_of_a_folder(self, pictures):
        files = image_files(folder := pictures(4))
        assert [path.relative_to(folder).as_posix() for path in files] == sorted(
            path.relative_to(folder).as_posix() for path in folder.rglob("*.*")
        )

    def test_folder_without_images(self, tiny_student, tmp_path):
        (tmp_path / "note.txt").write_text("none")
        with pytest.raises(UserError, match="has no image files"):
            tiny_student.embed(tmp_path)

    def test_broken_image_is_named(self, tiny_student, pictures):
        folder = pictures(3)
        (folder / "0000.png").write_bytes(b"")
        with pytest.raises(
            BrokenImage, match=r"0000\.png cannot be read: .*Restore it from the archive, or leave it out"
        ):
            tiny_student.embed(folder)


class TestFolders:
    def test_round_trip(self, recorded, tmp_path):
        recorded.save_pretrained(tmp_path / "new" / "folder")
        files = {path.name for path in (tmp_path / "new" / "folder").iterdir()}
        assert files == {"config.json", "model.safetensors", "record.json", "README.md"}
        for load in (load_student, Student.from_pretrained):
            loaded = load(tmp_path / "new" / "folder")
            assert torch.equal(loaded(batch()), recorded(batch()))
            assert loaded.record == recorded.record
            assert weights_hash(loaded.network) == weights_hash(recorded.network)

    def test_without_a_record(self, tiny_student, tmp_path):
        tiny_student.save_pretrained(tmp_path)
        assert load_student(tmp_path).record is None
        assert "## Record" not in (tmp_path / "README.md").read_text()

    def test_run_folder(self, recorded, student_file, tmp_path):
        (tmp_path / "student.pt").write_bytes(student_file.read_bytes())
        assert load_student(tmp_path).record is None
        recorded.record.write(tmp_path / "record.json")
        assert load_student(str(tmp_path)).record == recorded.record

    def test_record_of_another_network(self, recorded, record, tmp_path):
        recorded.save_pretrained(tmp_path)
        record("kd").write(tmp_path / "record.json")
        with pytest.raises(UserError, match=r"record\.json is the record of another network"):
            load_student(tmp_path)

    def test_other_folder(self, tmp_path):
        with pytest.raises(UserError, match=r"has neither student\.pt nor config\.json"):
            load_student(tmp_path)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda config: [], "is not the configuration of a student"),
            (lambda config: config | {"format": 2}, "is not the configuration of a student of format 1"),
            (lambda config: config | {"weights": "0" * 64}, "has other weights than .*config.json states"),
            (lambda config: config | {"weights": "../x"}, "not a valid student file: weights: String should match"),
            (lambda config: config | {"background": [0, 0, 256]}, "background.2: Input should be less than"),
            (lambda config: config | {"script": "x.py"}, "script: Extra inputs are not permitted"),
            (
                lambda config: config | {"architecture": {**config["architecture"], "dim": 13}},
                r"is \(1, 12\) instead of",
            ),
        ],
    )
    def test_damaged_configuration(self, tiny_student, change, message, tmp_path):
        tiny_student.save_pretrained(tmp_path)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(change(json.loads(path.read_text()))))
        with pytest.raises(UserError, match=message) as raised:
            load_student(tmp_path)
        assert str(tmp_path) in str(raised.value)

    def test_damaged_files(self, tiny_student, tmp_path):
        tiny_student.save_pretrained(tmp_path)
        weights = tmp_path / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
        with pytest.raises(UserError, match="has other weights"):
            load_student(tmp_path)
        weights.write_bytes(content[:1000])
        with pytest.raises(UserError, match=r"model\.safetensors is truncated or damaged"):
            load_student(tmp_path)
        weights.unlink()
        with pytest.raises(UserError, match=r"model\.safetensors does not exist"):
            load_student(tmp_path)
        (tmp_path / "config.json").write_text("{")
        with pytest.raises(UserError, match="is not the configuration of a student: not JSON"):
            load_student(tmp_path)

    def test_full_disk_keeps_the_earlier_files(self, tiny_student, full_disk, tmp_path):
        tiny_student.save_pretrained(tmp_path)
        before = (tmp_path / "model.safetensors").read_bytes()
        with full_disk(1000), pytest.raises(OSError, match="too large"):
            tiny_student.save_pretrained(tmp_path)
        assert (tmp_path / "model.safetensors").read_bytes() == before


class TestHub:
    def test_push_uploads_the_folder(self, recorded, monkeypatch, tmp_path):
        """Without a network: the calls of the Hub's client are recorded."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoUrl

        uploaded: dict[str, bytes] = {}

        def upload(self, *, repo_id, folder_path, **options):
            assert repo_id == "me/birds"
            uploaded.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir()})
            return "https://huggingface.co/me/birds/commit/1"

        monkeypatch.setattr(HfApi, "create_repo", lambda self, **options: RepoUrl("https://huggingface.co/me/birds"))
        monkeypatch.setattr(HfApi, "upload_folder", upload)
        assert recorded.push_to_hub("me/birds").endswith("/commit/1")
        for name, content in uploaded.items():
            (tmp_path / name).write_bytes(content)
        assert torch.equal(load_student(tmp_path)(batch()), recorded(batch()))
        assert load_student(tmp_path).record == recorded.record

    def test_download_asks_for_the_three_files_only(self, recorded, monkeypatch, tmp_path):
        from benchmark.deployment import student as module

        recorded.save_pretrained(tmp_path)
        asked = {}

        def download(name, **options):
            asked.update(options, name=name)
            return str(tmp_path)

        monkeypatch.setattr(module, "snapshot_download", download)
        monkeypatch.setattr(
            "huggingface_hub.hub_mixin.hf_hub_download", lambda **options: str(tmp_path / "config.json")
        )
        loaded = load_student("hf-hub:me/birds@v2")
        assert torch.equal(loaded(batch()), recorded(batch()))
        assert (asked["name"], asked["revision"]) == ("me/birds", "v2")
        assert asked["allow_patterns"] == ["config.json", "model.safetensors", "record.json"]

    @pytest.mark.parametrize("name", ["hf-hub:me/birds", "hf-hub:", "hf-hub:a/b/c"])
    def test_failing_download(self, name, monkeypatch):
        def fail(*arguments, **options):
            raise ConnectionError("no network\nand more")

        monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", fail)
        with pytest.raises(UserError, match=f"{name}.* could not be downloaded: .+") as raised:
            load_student(name)
        assert "\n" not in str(raised.value)


class TestModelCard:
    @pytest.fixture
    def card(self, recorded) -> str:
        return str(recorded.generate_model_card())

    def test_holds_the_record(self, card, recorded):
        content = json.loads(re.search(r"^```json\n(.*?)^```$", card, re.DOTALL | re.MULTILINE)[1])
        whole = recorded.record.model_dump(mode="json")
        whole["scores"].pop("average_precision")
        assert content == whole
        assert Record.model_validate(content).id == recorded.record.id

    def test_results(self, card, recorded):
        scores = recorded.record.scores.symmetric
        assert re.search(rf"\| mAP +\| {100 * scores.mAP:.2f} % +\|", card)
        assert f"{recorded.record.network.cost.macs:,}" in card

    def test_metadata(self, card, recorded):
        data = yaml.safe_load(card.split("---")[1])
        metrics = data["model-index"][0]["results"][0]["metrics"]
        assert {"type": "mAP", "value": recorded.record.scores.symmetric.mAP} in metrics
        assert data["pipeline_tag"] == "image-feature-extraction"

    def test_texts_are_escaped(self, recorded):
        text = "<script>|[x](y)"
        renamed = recorded.record.network.model_copy(update={"name": text})
        card = str(
            Student(recorded.network, recorded.record.model_copy(update={"network": renamed})).generate_model_card()
        )
        table = card.split("## Record")[0]
        assert "<script>" not in table.replace("\\<script\\>", "") and "\\[x\\](y)" in table


def test_run_of_the_command_line(student, finished):
    loaded = load_student(student)
    assert loaded.record == Record.read(student / "record.json")
    assert loaded.image_size == (32, 32)


@pytest.mark.slow
def test_a_run_keeps_the_background_of_its_images(tiny, data_root, tmp_path):
    recipe = tiny("none", "dataset.background=blue", "train.schedule.epochs=1", "teacher.train.schedule.epochs=1")
    experiment = Experiment(recipe, work_dir=tmp_path, data_root=data_root, device=torch.device("cpu"))
    experiment.run()
    assert load_student(experiment.folder.path).transform.background == BLUE
