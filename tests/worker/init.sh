#!/usr/bin/env bash
# [model] init: whose weights it takes, what they are worth before the first step, how long a projection that comes with them
# is in use, and what is said of files that do not fit. Usage: init.sh WORKER
worker=$1
. "$(dirname "$0")/worker_trials.sh"

sed -i -e 's/^length = .*/&\nvalid_fraction = 0.1/' -e 's/^every = 10/every = 5\nkeep = 10/' "$work/job.toml"
printf '[evaluate]\nevery = 10\nbatches = 3\n' >>"$work/job.toml"

model() { echo "$work/$1/checkpoints/step-$(printf %010d "$2")/model.safetensors"; }

# heir NAME DONOR RANKS [OPTION...]: ten steps that begin with the donor's last weights; RANKS 0: without mpirun
heir() {
    local name=$1 donor=$2 start=()
    [ "$3" -eq 0 ] || start=("${mpirun[@]}" -np "$3")
    shift 3
    ends 0 "${start[@]}" "$worker" --job "$work/job.toml" --output "$work/$name" \
        --set "model.init=\"$(model "$donor" 40)\"" --set train.steps=10 "$@"
}

# evaluation NAME STEP: all that evaluations after that step told
evaluation() {
    jq -c "select(.step == $2 and (.name | test(\"^(valid_|kernel_error|denominator_min|saturated|orthogonality)\"))) |
        [.name, .value]" "$work/$1/metrics.jsonl" | sort
}

# projections NAME STEP: a hash of those of all layers
projections() {
    local file header begin end
    file=$(model "$1" "$2")
    header=$(od -An -tu8 -N8 "$file" | tr -d ' ')
    tail -c +9 "$file" | head -c "$header" |
        jq -r '.["layers.0.attn.projection", "layers.1.attn.projection"].data_offsets | join(" ")' |
        while read -r begin end; do tail -c +$((9 + header + begin)) "$file" | head -c $((end - begin)); done | sha256sum
}

ends 0 alone favor
ends 0 alone exact --set 'attention.kind="softmax"'
[ -z "$(evaluation favor 0)" ] || fail "weights that were drawn were evaluated"

# ---- the weights and the features of a file are worth at step 0 what they were worth where they come from
heir same favor 0
[ "$(evaluation same 0 | wc -l)" -eq 10 ] || fail "step 0: $(evaluation same 0)"
[ "$(evaluation same 0)" = "$(evaluation favor 40)" ] || fail "at step 0 $(evaluation same 0), not $(evaluation favor 40)"
heir unasked favor 0 --set data.valid_fraction=0.0
[ -z "$(evaluation unasked 0)" ] || fail "evaluated without validation data"

# ---- a projection of the file is in use until the first redraw; where the file has none, draw 0 of the job is
[ "$(projections same 5)" = "$(projections favor 40)" ] || fail "another projection than the file's before the redraw"
[ "$(projections same 10)" = "$(projections favor 10)" ] || fail "the redraw after step 7 is not draw 1"
heir transferred exact 0
[ "$(projections transferred 5)" = "$(projections favor 5)" ] || fail "another projection than draw 0"
[ "$(projections favor 5)" != "$(projections favor 40)" ] || fail "these projections tell nothing apart"

# ---- the same bits at step 0 on any number of ranks
for ranks in 2 4; do
    heir "ranks-$ranks" exact $ranks
    [ "$(evaluation "ranks-$ranks" 0)" = "$(evaluation transferred 0)" ] || fail "$ranks ranks: other figures at step 0"
done

# ---- a run that goes on is not asked again; one that has nothing to go on from begins anew
heir transferred exact 0 --set train.steps=20
says "resumes at step 10"
for step in 0 10; do
    [ "$(evaluation transferred $step)" = "$(evaluation ranks-2 $step)" ] || fail "evaluated after step $step once more"
done
alone killed --set "model.init=\"$(model exact 40)\"" --set train.steps=100000 --set checkpoint.every=100000 \
    </dev/null 2>"$work/log" &
launcher=$!
until grep -q '"step":1,' "$work/killed/metrics.jsonl" 2>/dev/null; do sleep 0.05; done
hit KILL "$work/killed"
wait "$launcher" && fail "was not killed"
heir killed exact 0
[ "$(evaluation killed 0)" = "$(evaluation transferred 0 | sed p)" ] || fail "begun anew, and not evaluated alike: $(evaluation killed 0)"

# ---- weights of padded keys, other lengths, other models: what does not fit is named, with its cure
refused() { # CODE DONOR WORDS [OPTION...]
    local code=$1 donor=$2 words=$3
    shift 3
    ends "$code" alone refused --set "model.init=\"$donor\"" "$@"
    says 'model.init'
    says "$words"
    ! grep -q training-started "$work/log" || fail "began all the same"
}
favor=$(model favor 40)
exact=$(model exact 40)
reformer=(--set 'attention.kind="reformer"' --set attention.buckets=8 --set attention.chunk=32)
refused 66 "$work/nowhere.safetensors" "nowhere.safetensors: No such file"
says "wants a model.safetensors that every rank can read"
refused 87 "${favor%/*}" "no regular file"
refused 87 "$work/text.txt" "text.txt"
refused 65 "${favor%/*}/optimizer.safetensors" 'tensor `moment1.'
refused 65 "$favor" 'tensor `layers.1.' --set model.layers=1
refused 65 "$favor" 'there is no tensor `layers.2.' --set model.layers=3
refused 65 "$favor" '[64, 32], the job'"'"'s model has [32, 32]: check [model], data.length and [attention]' --set data.length=32
refused 65 "$favor" '[24, 16]' --set attention.features=25
# Reformer shares queries and keys: there is no way from or to it.
refused 65 "$exact" 'tensor `layers.0.attn.k_proj.' "${reformer[@]}"
says "check [model] and [attention]"
ends 0 alone reformer "${reformer[@]}"
refused 65 "$(model reformer 40)" 'there is no tensor `layers.0.attn.k_proj.'
says "check [model] and [attention]"
# Of other kinds every weight fits, and their random matrices are passed over.
heir linformer favor 0 --set 'attention.kind="linformer"' --set attention.rank=16 --set model.causal=false
heir softmax favor 0 --set 'attention.kind="softmax"'
