#!/usr/bin/env bash
# Train on GPU nodes, a rank a GPU:   sbatch -N 4 slurm/train_gpu.sh --config configs/lcd_fast.yaml --train.precision=bf16
# Start it in the folder of the checkout. What follows the script's name goes to the trainer. Options before it go to
# sbatch and override the lines below; partition and account may stand in slurm/site.env (see slurm/site.env.example).
#SBATCH --job-name=dist_calo
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=4
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
# Two minutes before the time is up the job saves its work, and then it waits in the queue again and goes on:
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append

# Ranks of a node see all its GPUs, each takes one; NCCL carries the gradients, so MPI has no part in it.
# Other nodes than those of four GPUs: sbatch --gpus-per-node=8 --ntasks-per-node=8.
cd "${DIST_CALO_HOME:-$SLURM_SUBMIT_DIR}" || exit 2
if ! [[ -f launch/job.sh ]]; then
    echo "$PWD is not the folder of dist_calo: call sbatch there, or set DIST_CALO_HOME to it" >&2
    exit 2
fi
source launch/job.sh
MPI=none

# Checkpoints lie in runs/NUMBER, named after the job. To continue a job that has ended:
#   sbatch slurm/train_gpu.sh --config ... --checkpoint.dir=runs/NUMBER
run_training --comm.backend=torch "$@"
