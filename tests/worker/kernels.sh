#!/usr/bin/env bash
# Every kernel of favor trains, causal and bidirectional: the loss falls. Two of them with the same bits for any number of
# threads and ranks; elu1, which has no projection, keeps none and redraws none; and a kernel that changes its sign ends as
# diverged where a positive one bears the same steps.
# Usage: kernels.sh WORKER
worker=$1
source "$(dirname "$0")/worker_trials.sh"

trial() { # NAME KERNEL CAUSAL RANKS THREADS
    local name=$1 kernel=$2 causal=$3 ranks=$4 threads=$5 start=()
    [ "$ranks" -eq 0 ] || start=("${mpirun[@]}" -np "$ranks")
    sed -e "s/^features = .*/&\nkernel = \"$kernel\"/" -e "s/^threads = .*/threads = $threads/" \
        -e "s/^dropout = .*/dropout = 0.0\ncausal = $causal\nobjective = \"next-token\"/" \
        "$work/job.toml" >"$work/$name.toml"
    ends 0 "${start[@]}" "$worker" --job "$work/$name.toml" --output "$work/$name"
}

losses() { # NAME: of the first five steps and the last five, one of each a line
    sed -n 's/.*"step": *\([0-9]*\), *"name": *"loss", *"value": *\([0-9.e+-]*\).*/\1 \2/p' "$work/$1/metrics.jsonl"
}

for kernel in softmax-positive softmax-hyperbolic softmax-trig relu exp sigmoid abs gelu cos tanh identity elu1; do
    for causal in true false; do
        name=$kernel-$causal
        trial "$name" "$kernel" "$causal" 0 1
        losses "$name" | awk -v name="$name" '
            $1 <= 5 { first += $2 / 5; n++ } $1 > 35 { last += $2 / 5; n++ }
            END { if (n != 10) { print name ": " n " losses"; exit 1 }
                  if (!(last < 0.9 * first)) { print name ": from " first " to " last; exit 1 } }' ||
            fail "the loss of $name does not fall"
        held=$(grep -c 'attn\.projection' -a "$work/$name/checkpoints/step-0000000040/model.safetensors" || true)
        case $kernel in
        elu1) [ "$held" -eq 0 ] || fail "elu1 has a projection" ;;
        *) [ "$held" -gt 0 ] || fail "$kernel has no projection" ;;
        esac
    done
done

for kernel in softmax-trig elu1; do
    trial "$kernel-threads" "$kernel" true 0 2
    trial "$kernel-ranks" "$kernel" true 2 1
    for way in threads ranks; do
        [ "$(weights "$kernel-true")" = "$(weights "$kernel-$way")" ] || fail "$kernel: other bits with two $way"
    done
done

# Denominators near 0, layer on layer: after one step that is far too long the gradient is no number. Not so with relu.
steep=(--set model.layers=8 --set attention.epsilon=0.0 --set optimizer.lr=100 --set optimizer.weight_decay=0.0)
ends 105 alone steep-cos --set 'attention.kernel="cos"' "${steep[@]}"
says "training diverged at step 2: "
says "the step was not taken"
says "a kernel whose features are positive may help"
[ ! -e "$work/steep-cos/checkpoints/step-0000000010" ] || fail "a checkpoint of weights that are no numbers"
ends 0 alone steep-relu --set 'attention.kernel="relu"' "${steep[@]}"
