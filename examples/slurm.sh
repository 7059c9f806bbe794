#!/bin/bash
# A run that takes longer than a job of SLURM may: sbatch examples/slurm.sh
#SBATCH --gpus=1 --cpus-per-task=8 --time=12:00:00
#SBATCH --requeue --open-mode=append --signal=B:USR1@300

# SLURM sends SIGUSR1 to this script 300 seconds before the end. The run then writes a checkpoint after its next step and
# exits with 75, and the job is queued again.
trap 'kill -USR1 "$run"' USR1
benchmark run --method cdd --dataset veri776 --resume --set runtime.checkpoint_minutes=10 &
run=$!
wait "$run"
code=$?
if [ "$code" -eq 138 ]; then # the signal has interrupted `wait`
    wait "$run"
    code=$?
fi
if [ "$code" -eq 75 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
