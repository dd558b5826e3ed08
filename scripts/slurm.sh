#!/usr/bin/env bash
# Train on a Slurm cluster: sbatch scripts/slurm.sh --config quickstart
# Two minutes before the time limit, the run saves a checkpoint and the job is requeued, until the run is complete.
# Each task trains on one GPU. The tasks of a job array (sbatch --array 1-5) train with different seeds.
#SBATCH --job-name=kindling
#SBATCH --nodes=1 --ntasks-per-node=1 --gpus-per-node=1  # as many GPUs as tasks
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=USR1@120 --requeue --open-mode=append
#SBATCH --output=slurm-%j.log
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-.}"

srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" .venv/bin/kindling fit --ckpt_path auto \
    --trainer.num_nodes "${SLURM_NNODES:-1}" --trainer.devices "${SLURM_NTASKS_PER_NODE:-1}" \
    ${SLURM_ARRAY_TASK_ID:+--seed_everything "$SLURM_ARRAY_TASK_ID"} "$@"
