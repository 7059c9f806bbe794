"""The model card: the page that describes a student on the Hugging Face Hub."""

import json

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from tabulate import tabulate

from benchmark.results.record import Record
from benchmark.utils.escape import markdown

LIBRARY = "retrieval-distill-benchmark"


def model_card(record: Record | None, image_size: tuple[int, int], dim: int) -> ModelCard:
    """Return the card of a student.

    Args:
        record: The record of its run, which the card holds without the scores of single queries; None for a card
            without results.
        image_size: (height, width) of the images in pixels.
        dim: Size of an embedding.
    """
    data = ModelCardData(
        library_name=LIBRARY,
        pipeline_tag="image-feature-extraction",
        tags=["image-retrieval", "knowledge-distillation", "model_hub_mixin"],
        model_name=None if record is None else f"{record.method} on {record.board}",
        eval_results=None if record is None else _results(record),
    )
    height, width = image_size
    usage = (
        f"It maps RGB images of {height} x {width} pixels to embeddings of {dim} values, which are compared by their "
        "cosine. It resizes and normalizes images itself."
    )
    code = (
        "```python\nfrom benchmark import load_student\n\n"
        'student = load_student("hf-hub:OWNER/NAME")\n'
        'embeddings = student.embed("folder/of/images")  # normalized\n```'
    )
    parts = [f"---\n{data.to_yaml()}\n---", f"# {_title(record)}", usage, code]
    if record is not None:
        parts += ["## Results", _table(record), "## Record", "<details>", _content(record), "</details>"]
    return ModelCard("\n\n".join(parts) + "\n")


def _title(record: Record | None) -> str:
    return "A student for image retrieval" if record is None else markdown(f"{record.method} on {record.board}")


def _results(record: Record) -> list[EvalResult]:
    scores = record.scores.symmetric
    values = {"mAP": scores.mAP} | {f"Recall@{k}": value for k, value in scores.recall.items()}
    return [
        EvalResult(
            task_type="image-retrieval",
            dataset_type=record.dataset,
            dataset_name=record.board,
            metric_type=name,
            metric_value=value,
        )
        for name, value in values.items()
    ]


def _table(record: Record) -> str:
    cost, scores = record.network.cost, record.scores.symmetric
    rows = [
        ("Network", markdown(record.network.name)),
        ("Method", markdown(record.method)),
        ("Dataset", markdown(record.board)),
        ("Seed", record.seed),
        ("mAP", f"{100 * scores.mAP:.2f} %"),
        *((f"Recall@{k}", f"{100 * value:.2f} %") for k, value in scores.recall.items()),
        ("Parameters", f"{cost.parameters:,}"),
        ("MACs", f"{cost.macs:,}"),
        *(
            (f"Latency of {batch} image{'' if batch == '1' else 's'}", f"{value:.2f} ms ({markdown(cost.measured_on)})")
            for batch, value in cost.latency_ms.items()
        ),
    ]
    rows += [
        ("Teacher", f"{markdown(teacher.network)}, mAP {100 * teacher.scores.mAP:.2f} %") for teacher in record.teachers
    ]
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return tabulate(cells, ["", ""], tablefmt="github", disable_numparse=True)


def _content(record: Record) -> str:
    content = record.model_dump(mode="json", exclude={"scores": {"average_precision"}})
    # No text in JSON has a line break, so that none of them ends the block.
    return f"```json\n{json.dumps(content, indent=2, sort_keys=True)}\n```"
