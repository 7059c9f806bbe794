#!/usr/bin/env bash
# From a folder of images to a search page: install, check the images, train a small student, export it, index the
# images, and search.
#
# Usage, in the repository:
#     examples/search_own_folder.sh FOLDER IMAGE [OPTION OF benchmark run ...]
#
# FOLDER has one folder per identity (see docs/datasets.md), and IMAGE is searched for. The last command writes
# search.html. Options can be, for example, --set student.backbone=resnet18.
set -euo pipefail
folder=$1 image=$2

pip install '.[ann,onnx]'
benchmark data check folder --set path="$folder"
benchmark run --method kd --dataset folder --set dataset.path="$folder" --work-dir runs "${@:3}"
run=$(ls -d runs/folder/kd/seed0-*)
benchmark export "$run" --to onnx
benchmark embed "$folder" --student "$run" --output index
benchmark search "$image" --index index --output search.html
