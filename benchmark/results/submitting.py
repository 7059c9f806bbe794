"""How others add their records: a section of the leaderboards' index."""

SUBMITTING = """\
## Submit a record

1. `benchmark run --method NAME --dataset NAME --seed 0` writes the record, and its teacher's, into `records/` beside
   this page, or into that of the folder given as `--leaderboards`: copy both files from there, under their names. (The
   run's own folder, whose path the command prints, holds the same as `record.json`.)
2. `benchmark leaderboard` writes the pages anew.
3. `benchmark leaderboard --check` says what is wrong with any record, or that a page is not what the records give.
   `tox` does the same.
4. Open a pull request with the records and the pages, and with the code of a method or dataset that is not here yet.

What is checked, of every record: its schema; that the recipe's hash and both ids are those of the recipe it holds, and
that dataset, method, seed, leaderboard, protocol and the networks' names are too (not the name of a teacher that came
as a checkpoint); that scores can be those of ranked lists (Recall@K rises with K and counts whole queries, precision@1
is R@1, the mAP is the mean of the average precisions that the record holds, mINP is at most twice that) of as many
queries as the data have; that asymmetric scores or the reason for none are given; that FLOPs and savings follow from
the costs, and that the budget is the recipe's. The networks are built again from the recipe, with random weights, and
their parameters and MACs counted: those of a teacher, and of a student that nothing compresses, have to be equal; a
compressed student's may not exceed those it started with. Of a method or dataset that is not registered here, the
record itself is asked.

What no program can check, a reviewer looks at: whether the recipe trains on anything that it should not (`weights`,
`teacher.checkpoint`), where and with which commit it ran, whether the content hash and the counts of the data are those
of the other records, whether scores are likely beside those of other methods and seeds; for a few records, whether
`benchmark reproduce FILE` gives them again."""
