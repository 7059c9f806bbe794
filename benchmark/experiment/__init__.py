"""One run, from its recipe to its record.

- `run`: run an experiment from Python.
- `preflight`: everything that is checked before the first image is read.
- `experiment`: train the teacher, distill the student, deploy and evaluate both.
- `report`: the content of a record.
- `folders`: the folders of runs, and their locks.
- `finished`: load the networks of a finished run.
- `environment`: device, versions and commit.
"""
