"""The same training step in PyTorch, for deploy/bench-pytorch: what ours is measured beside.

Reads one JSON request a line and answers each with one JSON line: `about`, `check`, `open`, `step`. The block is that of
worker/performer.c (pre-LN, exact GELU, learned positions), the optimizer that of worker/step.c (AdamW behind a clip of the
global norm), the attention that of the README; each is written as suits PyTorch best. q, k and v are one product, so that
neither autograd nor the compiler can leave out those that identity drops.
"""

import ctypes
import json
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

CHUNKS = (64, 128, 256)
SCANS = ("cumsum", "product")
WARM_ENOUGH_S = 4  # a first step that takes longer counts: what it does for the first time is little of it


# ---- attention: q, k, v (B, H, L, d) ----


def features(q, k, projection, epsilon, causal):
    """Positive features in fp32, as kernels/reference/favor.c has them. The key's floor follows the running maximum, so no
    future key is seen. What cancels in the quotient is left out: 1/sqrt(m), and the norm of a query, by which dq loses
    a term of the order of epsilon."""
    d = q.shape[-1]
    scaled = (projection * d**-0.25).T
    q_product = q.float() @ scaled
    phi_q = torch.exp(q_product - q_product.detach().amax(-1, keepdim=True)) + epsilon
    k_product = k.float() @ scaled
    half_norm = k.float().square().sum(-1, keepdim=True) * (0.5 * d**-0.5)
    with torch.no_grad():
        top = k_product.amax(-1, keepdim=True) - half_norm
        most = top.amax(-2, keepdim=True)
        floor = epsilon * torch.exp(top.cummax(-2).values - most) if causal else epsilon
    return phi_q, torch.exp(k_product - (half_norm + most)) + floor


def earlier(states, scan):
    """The sum of the states (B, H, N, m, e) of the chunks before each."""
    if scan == "cumsum":
        return states.cumsum(2) - states
    chunks = states.shape[2]
    before = torch.ones(chunks, chunks, dtype=states.dtype).tril(-1)
    return (before @ states.flatten(3)).view_as(states)


def favor(q, k, v, projection, epsilon, causal, chunk, scan):
    phi_q, phi_k = features(q, k, projection, epsilon, causal)
    phi_q, phi_k = phi_q.to(v.dtype), phi_k.to(v.dtype)
    v = torch.cat((v, v.new_ones(()).expand(*v.shape[:-1], 1)), -1)  # the last column is the denominator
    if causal:
        in_chunks = (*v.shape[:2], v.shape[2] // chunk, chunk, -1)
        phi_q, phi_k, v = phi_q.reshape(in_chunks), phi_k.reshape(in_chunks), v.reshape(in_chunks)
        out = (phi_q @ phi_k.mT).tril() @ v + phi_q @ earlier(phi_k.mT @ v, scan)
        out = out.flatten(2, 3)
    else:
        out = phi_q @ (phi_k.mT @ v)
    return out[..., :-1] / out[..., -1:]


def attend(q, k, v, how, projection):
    kind, causal = how["attention"], how["causal"]
    if kind == "identity":
        return v
    if kind == "softmax":
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    with torch.autocast("cpu", enabled=False):  # favor says itself what is half
        return favor(q, k, v, projection, how["epsilon"], causal, how["chunk"], how["scan"])


# ---- model ----


class Block(nn.Module):
    def __init__(self, how):
        super().__init__()
        width, mlp = how["width"], how["mlp"]
        self.how = how
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, mlp), nn.Linear(mlp, width)
        self.projection = torch.randn(how["features"], width // how["heads"])  # no buffer: it stays fp32

    def forward(self, h):
        batch, length, width = h.shape
        q, k, v = self.qkv(self.norm1(h)).view(batch, length, 3, self.how["heads"], -1).permute(2, 0, 3, 1, 4).unbind(0)
        attended = attend(q, k, v, self.how, self.projection)
        h = h + self.out(attended.transpose(1, 2).reshape(batch, length, width))
        return h + self.fc2(F.gelu(self.fc1(self.norm2(h))))


class Head(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.norm_f = nn.LayerNorm(how["width"])
        self.lm_head = nn.Linear(how["width"], how["vocab"], bias=False)

    def forward(self, h, targets):
        logits = self.lm_head(self.norm_f(h))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-1)


class Model(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.tok_embed = nn.Embedding(how["vocab"], how["width"])
        self.pos_embed = nn.Parameter(0.02 * torch.randn(how["length"], how["width"]))
        self.layers = nn.ModuleList(Block(how) for _ in range(how["layers"]))
        self.head = Head(how)
        nn.init.normal_(self.tok_embed.weight, std=0.02)

    def forward(self, ids, targets):
        h = self.tok_embed(ids) + self.pos_embed
        for layer in self.layers:
            h = layer(h)
        return self.head(h, targets)


class Training:
    """bf16: by autocast, or ("copies") by a model in bf16 whose master weights are fp32."""

    def __init__(self, how, compiled):
        torch.manual_seed(1)
        self.how, self.model, self.steps = how, Model(how), 0
        self.copies = how["half"] == "copies"
        self.weights = list(self.model.parameters())
        self.master = self.weights
        if self.copies:
            self.master = [nn.Parameter(w.detach().clone()) for w in self.weights]
            self.model.bfloat16()
        groups = [
            {"params": [w for w in self.master if w.dim() > 1], "weight_decay": 0.1},
            {"params": [w for w in self.master if w.dim() == 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), eps=1e-9, fused=True)
        if compiled:  # block by block: all blocks share one code, so it takes a sixth of the time to make
            for module in (*self.model.layers, self.model.head):
                module.compile(dynamic=False)

    def step(self, ids, targets):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.how["half"] == "autocast"):
            loss = self.model(ids, targets)
        loss.backward()
        if self.copies:
            for master, weight in zip(self.master, self.weights):
                master.grad, weight.grad = weight.grad.float(), None
        norm = nn.utils.clip_grad_norm_(self.master, 0.5, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.copies:
            with torch.no_grad():
                torch._foreach_copy_(self.weights, self.master)
        return loss, norm

    def random_batch(self):
        """Bidirectional: 15 % of the positions are to be predicted, all logits are computed, as ours does it."""
        vocab, causal = self.how["vocab"], self.how["causal"]
        tokens = torch.randint(vocab - 1, (self.how["batch"], self.how["length"] + 1))
        if causal:
            return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
        tokens = tokens[:, :-1]
        chosen = torch.rand(tokens.shape) < 0.15
        return tokens.masked_fill(chosen, vocab - 1), tokens.masked_fill(~chosen, -1)

    def timed_step(self):
        ids, targets = self.random_batch()
        start = time.perf_counter()
        loss, norm = self.step(ids, targets)
        finite = bool(torch.isfinite(loss)) and bool(torch.isfinite(norm))
        seconds = time.perf_counter() - start
        if not finite:
            raise ArithmeticError("the loss is not finite")
        return seconds


# ---- which form is the best here ----


def variants(how):
    halves = ("autocast", "copies") if how["precision"] == "bf16" else ("none",)
    chunks, scans = (CHUNKS, SCANS) if how["attention"] == "favor" and how["causal"] else (CHUNKS[:1], SCANS[:1])
    forms = [{"chunk": chunk, "scan": scan} for chunk in chunks if how["length"] % chunk == 0 for scan in scans]
    return [{"half": half, **form} for form in forms for half in halves]


def best_variant(how):
    """By the second step of a model of one layer."""
    tried = []
    for variant in variants(how):
        training = Training({**how, **variant, "layers": 1}, compiled=False)
        first = training.timed_step()
        tried.append((first if first > WARM_ENOUGH_S else training.timed_step(), variant))
    return min(tried, key=lambda each: each[0])[1]


# ---- is it the same thing ----


def error_of(ours, reference, scale):
    return float((ours.double() - reference.double()).norm() / max(float(reference.norm()), 0.05 * float(scale.norm())))


def check_attention(case, out, meta):
    """Largest error of out, dq, dk, dv against what performer-attend wrote, by design section 6, of all forms."""
    how = {"attention": meta["attention"], "causal": meta["causal"] == "true", "epsilon": float(meta["epsilon"])}
    worst = 0.0
    for chunk in CHUNKS:
        for scan in SCANS:
            q, k, v = (case[name].unsqueeze(0).requires_grad_() for name in ("q", "k", "v"))
            result = attend(q, k, v, {**how, "chunk": chunk, "scan": scan}, case["projection"])
            result.backward(case["dout"].unsqueeze(0))
            for name, ours in (("out", result), ("dq", q.grad), ("dk", k.grad), ("dv", v.grad)):
                worst = max(worst, error_of(ours.detach().squeeze(0), out[name], out["dv"]))
    return worst


def load(model, tensors):
    def joined(layer, what):
        return torch.cat([tensors[f"layers.{layer}.attn.{part}_proj.{what}"] for part in "qkv"])

    state = {"tok_embed.weight": tensors["tok_embed.weight"], "pos_embed": tensors["pos_embed.weight"]}
    state |= {f"head.{name}": tensors[name] for name in ("norm_f.weight", "norm_f.bias", "lm_head.weight")}
    for i, layer in enumerate(model.layers):
        for what in ("weight", "bias"):
            state[f"layers.{i}.qkv.{what}"] = joined(i, what)
            state[f"layers.{i}.out.{what}"] = tensors[f"layers.{i}.attn.out_proj.{what}"]
            for name, ours in (("norm1", "norm1"), ("norm2", "norm2"), ("fc1", "mlp.fc1"), ("fc2", "mlp.fc2")):
                state[f"layers.{i}.{name}.{what}"] = tensors[f"layers.{i}.{ours}.{what}"]
        layer.projection = tensors.get(f"layers.{i}.attn.projection")
    model.load_state_dict(state)


def check_model(config, init, tokens, expected):
    """Largest relative error of the losses and gradient norms of a model vector's steps."""
    how = {**config, "half": "none", "chunk": 16, "scan": "cumsum"}
    training = Training(how, compiled=False)
    load(training.model, init)
    rows = tokens.view(config["batch"], config["length"] + 1).long()
    worst = 0.0
    for loss, norm in zip(expected["loss"], expected["grad_norm"]):
        ours_loss, ours_norm = training.step(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
        worst = max(worst, abs(ours_loss.item() / loss - 1), abs(ours_norm.item() / norm - 1))
    return worst


# ---- files ----


def read_safetensors(path):
    with open(path, "rb") as file:
        data = file.read()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    meta = header.pop("__metadata__", {})
    types = {"F32": torch.float32, "U8": torch.uint8}
    return {
        name: torch.frombuffer(bytearray(data[end + at["data_offsets"][0] : end + at["data_offsets"][1]]),
                               dtype=types[at["dtype"]]).view(at["shape"])
        for name, at in header.items()
    }, meta


def write_safetensors(path, tensors, meta):
    header, offset = {"__metadata__": meta}, 0
    for name, tensor in tensors.items():
        size = 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(bytes(tensor.contiguous().untyped_storage()))


# ---- requests ----


class Peer:
    def __init__(self):
        self.trainings = {}

    def about(self, threads):
        torch.set_num_threads(threads)
        a, b = torch.randn(2048, 512), torch.randn(512, 2048)
        rates = {}
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            x, y, least = a.to(dtype), b.to(dtype), float("inf")
            for _ in range(12):
                start = time.perf_counter()
                x @ y
                least = min(least, time.perf_counter() - start)
            rates[name] = 2e-9 * a.shape[0] * a.shape[1] * b.shape[1] / least
        return {"version": torch.__version__, "threads": torch.get_num_threads(), "product_gflops": rates,
                "capability": torch.backends.cpu.get_cpu_capability()}

    def make_case(self, path, attention, causal):
        torch.manual_seed(2)
        meta = {"attention": attention, "kernel": "softmax-positive", "causal": causal, "epsilon": "1e-6"}
        case = {"q": torch.randn(2, 512, 64) / 2, "k": torch.randn(2, 512, 64) / 2, "v": torch.randn(2, 512, 64),
                "dout": torch.randn(2, 512, 64), "projection": torch.randn(256, 64)}
        write_safetensors(path, case, meta)
        return {}

    def check_case(self, path, out):
        case, meta = read_safetensors(path)
        return {"error": check_attention(case, read_safetensors(out)[0], meta)}

    def check_vector(self, directory):
        with open(f"{directory}/expected.json") as file:
            expected = json.load(file)
        with open(f"{directory}/tokens.bin", "rb") as file:
            tokens = torch.frombuffer(bytearray(file.read()), dtype=torch.uint16).to(torch.int32)
        return {"error": check_model(expected["config"], read_safetensors(f"{directory}/init.safetensors")[0], tokens,
                                     expected)}

    def open(self, **how):
        self.trainings.clear()
        torch._dynamo.reset()
        ctypes.CDLL(None).malloc_trim(0)
        how = {"epsilon": 1e-6, **how}
        best = best_variant(how)
        self.trainings = {mode: Training({**how, **best}, mode == "compiled") for mode in ("eager", "compiled")}
        told = (["half"] if how["precision"] == "bf16" else []) + (
            ["chunk", "scan"] if how["attention"] == "favor" and how["causal"] else [])
        return {key: best[key] for key in told}

    def step(self, mode):
        return {"ms": 1e3 * self.trainings[mode].timed_step()}


def main():
    peer, answers = Peer(), sys.stdout
    sys.stdout = sys.stderr
    torch.set_flush_denormal(True)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(peer, request.pop("do"))(**request)
        except (RuntimeError, MemoryError, ArithmeticError) as error:  # does not fit, or is not finite: the cell's answer
            peer.trainings.clear()
            answer = {"failed": str(error).strip().splitlines()[0][:100]}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
