#!/usr/bin/env bash
# Trains the networks in demo/checkpoints from nothing: make demo-checkpoints [WORK=folder] [GRID=folder]
#
# WORK holds everything on the way (4 GB) and can be deleted afterwards; whatever is finished there is not done again.
# GRID, if given, is a folder of GRID videos laid out as speaker/clip: the generator then learns real faces as well.
set -euo pipefail
work=$1 grid=${2:-} python=.venv/bin/python
faces=$work/faces lists=$work/lists

# 500 heads, 1000 utterances; a tenth of the heads are kept for validation.
$python -m demo.talking_head --out "$work/videos" --clips 1000 --seed 1 --seconds 2.4 --size 192x192
$python preprocess.py --data_root "$work/videos" --preprocessed_root "$faces" --face_detector haar \
    --split 0.9,0.1,0 --filelists "$lists"

# An expert that starts on all heads at once still guesses after hundreds of steps. Twelve heads first: it leaves the
# plateau within 100 steps, and carries what it has learned over to all others. The last steps are smaller.
mkdir -p "$lists/few"
head -24 "$lists/train.txt" > "$lists/few/train.txt"
cp "$lists/val.txt" "$lists/few/"
expert() { # folder, seed, width
    train() { # filelists, last step, learning rate, augmentation
        $python color_syncnet_train.py --data_root "$faces" --checkpoint_dir "$work/$name" --filelists "$1" \
            --seed "$seed" --resume --keep 2 --max_steps "$2" --hparams "width=$width,syncnet_lr=$3,$4,num_workers=1,\
syncnet_eval_interval=100,syncnet_checkpoint_interval=100,syncnet_eval_steps=8"
    }
    name=$1 seed=$2 width=$3
    varied=augment_mirror=0.5,augment_shift=0.02,augment_zoom=0.02,augment_brightness=0.05,augment_contrast=0.1
    train "$lists/few" 200 2e-4 augment_shift=0.02
    train "$lists" 1800 5e-4 $varied
    train "$lists" 3000 2e-4 $varied
    train "$lists" 3400 5e-5 $varied
}
newest() { ls "$work/$1"/checkpoint_step*.pth | tail -1; }
expert expert 0 0.375
expert judge 1 0.25 # never used as a loss: it only scores what the generator learns from the other

mkdir -p "$lists/generator"
cp "$lists/val.txt" "$lists/generator/"
cp "$lists/train.txt" "$lists/generator/"
if [ -n "$grid" ]; then
    $python preprocess.py --data_root "$grid" --preprocessed_root "$faces" --face_detector haar \
        --split 0.9,0.1,0 --filelists "$lists/grid"
    head -300 "$lists/grid/train.txt" >> "$lists/generator/train.txt"
fi
generator() { # last step, learning rate, sync weight
    $python wav2lip_train.py --data_root "$faces" --checkpoint_dir "$work/generator" --filelists "$lists/generator" \
        --syncnet_checkpoint_path "$(newest expert)" --judge_checkpoint_path "$(newest judge)" --resume --keep 2 \
        --max_steps "$1" --hparams "width=0.25,batch_size=8,initial_learning_rate=$2,syncnet_wt=$3,num_workers=1,\
eval_interval=250,checkpoint_interval=250,eval_steps=8"
}
generator 1500 5e-4 0
generator 3000 2e-4 0.03

$python -m demo.export expert "$(newest expert)" demo/checkpoints/expert.pth
$python -m demo.export generator "$(newest generator)" demo/checkpoints/generator.pth
