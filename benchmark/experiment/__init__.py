"""One run, from its recipe to its record.

- `run`: run an experiment from Python.
- `preflight`: everything that is checked before the first image is read.
- `experiment`: train the teacher, distill the student, deploy and evaluate both.
- `report`: everything that a record states.
- `folders`: where a run keeps its files, and how processes share them.
- `finished`: load the networks of a finished run.
- `environment`: device, versions and commit.
"""
