"""What a method asks of the two networks and of the batches."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Needs:
    """What has to be given for a method to make sense.

    `benchmark.pairing` checks embeddings, backbones and views before anything is trained. `classifier` is checked of
    teachers from a checkpoint file; those trained here have one. `sample_index` only describes the method: every batch
    carries the indices. The intermediate features that a method reads are its `student_taps` and `teacher_taps`.
    """

    teacher: bool = True
    """A teacher. Without one none is run, and `loss` gets the student's features twice."""
    classifier: bool = False
    """The teacher's logits over the identities of the training set."""
    equal_embeddings: bool = False
    """Embeddings of one size."""
    same_backbone: bool = False
    """A student that starts with the teacher's architecture, block by block."""
    sample_index: bool = False
    """`Batch.indices`: it remembers something of every training image."""
    views: bool = False
    """Several augmentations of every image in a batch: `train.sampler.views` above 1."""

    def __or__(self, other: "Needs") -> "Needs":
        """What both need."""
        return Needs(*(getattr(self, name) or getattr(other, name) for name in self.__slots__))

    def describe(self) -> str:
        """A sentence for people."""
        parts = {
            "a teacher" if self.teacher else "no teacher": True,
            "the teacher's classifier": self.classifier,
            "embeddings of one size": self.equal_embeddings,
            "a student with the teacher's architecture to start from": self.same_backbone,
            "the index of every sample": self.sample_index,
            "several views of every image (train.sampler.views)": self.views,
        }
        named = [part for part, needed in parts.items() if needed]
        listed = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
        return f"Needs {listed}."
