"""The models learn a world that is known in closed form, through a Trainer as their configs train them."""

import math
from dataclasses import replace
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, EMAWeightAveraging, ModelCheckpoint
from linear import ACT_DIM, OBS_DIM, episodes, true_reward, true_rollout, true_step

from dydiff.data.datamodules import TransitionDataModule, WindowDataModule
from dydiff.data.episodes import Transitions
from dydiff.data.source import EpisodeSource
from dydiff.data.tasks import HOPPER, never
from dydiff.models.base import load_weights
from dydiff.models.denoiser import Denoiser
from dydiff.models.dynamics import DynamicsEnsemble
from dydiff.models.edm import EDMSampler
from dydiff.models.networks import Mish
from dydiff.models.normalizer import Normalizer
from dydiff.models.reward import RewardModel
from dydiff.utils.checkpoints import publish
from dydiff.utils.errors import UserError


class LinearSource(EpisodeSource):
    name, task = "linear", replace(HOPPER, obs_dim=OBS_DIM, act_dim=ACT_DIM, terminated=never)

    def read(self):
        return episodes()


def fit(module, data, tmp_path, epochs, *callbacks):
    checkpoint = ModelCheckpoint(tmp_path, monitor="holdout/loss")
    trainer = L.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        num_sanity_val_steps=0, callbacks=[checkpoint, *callbacks],
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return checkpoint


@pytest.fixture(scope="module")
def dynamics(tmp_path_factory):
    torch.manual_seed(0)
    model = DynamicsEnsemble(
        OBS_DIM, ACT_DIM, num_members=4, num_elites=2, hidden_sizes=(32, 32), weight_decay=(0, 0, 0)
    )
    fit(model, TransitionDataModule(LinearSource(), batch_size=64), tmp_path_factory.mktemp("dynamics"), 25)
    return model.eval()


def member_errors(model, data):
    """Mean squared error of each member's standardised change."""
    with torch.no_grad():
        everyone = (each.expand(model.num_members, -1, -1) for each in (data.obs, data.act))
        change = model.change_normalizer(data.next_obs - data.obs)
        return (model.predict(*everyone)[0] - change).square().mean((1, 2))


class TestDynamics:
    def test_learns_the_step(self, dynamics):
        data = episodes(seed=9).transitions
        with torch.no_grad():
            predicted = dynamics.step(data.obs, data.act)
        error = (predicted - data.next_obs).square().mean() / (data.next_obs - data.obs).square().mean()
        assert error < 0.02

    def test_elites_are_the_members_with_the_lowest_holdout_error(self, dynamics):
        data = TransitionDataModule(LinearSource())
        data.setup("fit")
        holdout = data.episodes.select(data.holdout_episodes).transitions
        errors = member_errors(dynamics, holdout)
        assert set(dynamics.elites.tolist()) == set(errors.argsort()[:2].tolist())

    def test_the_holdout_loss_is_the_elites_own(self, monkeypatch):
        """A batch in which other members are the best ones makes them no elites, and the loss no lower."""
        torch.manual_seed(0)
        model, logged = DynamicsEnsemble(OBS_DIM, ACT_DIM, num_members=4, num_elites=2), {}
        monkeypatch.setattr(model, "log_dict", lambda metrics, **_: logged.update(metrics))
        data = episodes(seed=9).transitions
        with torch.no_grad():
            for rows in torch.arange(100).split(1):
                model.validation_step(data.at(rows), 0)
            model.on_validation_epoch_end()
            errors = member_errors(model, data.at(torch.arange(100))).sort()
        assert model.elites.tolist() == errors.indices[:2].tolist()
        torch.testing.assert_close(logged["holdout/loss"], errors.values[:2].mean())
        torch.testing.assert_close(logged["holdout/worst_member"], errors.values[-1])

    @pytest.mark.parametrize("count", [1, 3, 4])
    def test_few_rows_come_from_all_elites(self, count):
        torch.manual_seed(0)
        model = DynamicsEnsemble(OBS_DIM, ACT_DIM, num_members=3, num_elites=3)
        obs, act, used = torch.randn(count, OBS_DIM), torch.rand(count, ACT_DIM), []
        with torch.no_grad():
            means = model.elite_means(obs, act)
            for seed in range(60):
                drawn = model.step(obs, act, torch.Generator().manual_seed(seed), sample=False)
                distances = (means - drawn).abs().amax(-1).min(0)
                assert distances.values.max() < 1e-5
                used += distances.indices.tolist()
        assert torch.tensor(used).bincount().min() > 60 * count / 3 * 0.6

    def test_each_row_comes_from_one_elite_and_the_elites_share_the_rows_evenly(self, dynamics):
        """With the noise off, every sampled row must equal one elite's mean, never a mixture or a non-elite's."""
        obs, act = torch.randn(101, OBS_DIM), torch.rand(101, ACT_DIM)
        dynamics.max_logvar.data -= 40
        dynamics.min_logvar.data -= 40
        with torch.no_grad():
            sampled = dynamics.step(obs, act, torch.Generator().manual_seed(1))
            means = dynamics.predict(obs.expand(4, -1, -1), act.expand(4, -1, -1))[0]
        dynamics.max_logvar.data += 40
        dynamics.min_logvar.data += 40
        candidates = obs + dynamics.change_normalizer.inverse(means)
        distance = (candidates - sampled).abs().amax(-1)
        nearest = distance.argmin(0)
        assert distance.amin(0).max() < 1e-5
        counts = nearest.bincount(minlength=4)
        assert counts[dynamics.elites].sum() == 101 and counts[dynamics.elites].min() >= 50

    def test_disagreement_is_the_spread_of_the_elites_means(self):
        """Members that predict constants: the standard deviation over elites, averaged over dimensions."""
        model = DynamicsEnsemble(OBS_DIM, ACT_DIM, num_members=4, num_elites=3)
        model.elites.copy_(torch.tensor([3, 0, 2]))
        model.change_normalizer.scale.fill_(7.0)  # the spread is that of the standardised change
        last = model.network.layers[-1]
        torch.nn.init.zeros_(last.weight)
        with torch.no_grad():
            last.bias[:, 0, :OBS_DIM] = torch.tensor(
                [[0.0, 1.0, 5.0], [9.0, 9.0, 9.0], [2.0, 1.0, 5.0], [4.0, 1.0, 2.0]]
            )
            found = model.disagreement(torch.randn(6, OBS_DIM), torch.rand(6, ACT_DIM))
        expected = ((8 / 3) ** 0.5 + 0 + 2**0.5) / 3  # of 0, 2, 4; of 1, 1, 1; of 5, 5, 2
        torch.testing.assert_close(found, torch.full((6,), expected))

    def test_sampling_follows_its_generator(self, dynamics):
        obs, act = torch.randn(7, OBS_DIM), torch.rand(7, ACT_DIM)
        draws = [dynamics.step(obs, act, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
        assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])

    def test_likelihood_is_the_gaussians(self):
        """One member, a batch of one row: the bootstrap is the row itself, and the loss has a closed form."""
        model = DynamicsEnsemble(OBS_DIM, ACT_DIM, num_members=1, num_elites=1)
        row = Transitions(torch.randn(1, 3), torch.rand(1, 2), torch.zeros(1), torch.randn(1, 3), torch.zeros(1).bool())
        mean, logvar = model.predict(row.obs[None], row.act[None])
        normal = torch.distributions.Normal(mean, (logvar / 2).exp())
        likelihood = -2 * normal.log_prob((row.next_obs - row.obs)[None]).mean() - torch.log(torch.tensor(2 * torch.pi))
        bounds = 0.01 * (model.max_logvar - model.min_logvar).sum()
        torch.testing.assert_close(model.loss(row), likelihood + bounds)

    def test_weight_decay_is_each_layers_own(self):
        groups = DynamicsEnsemble(OBS_DIM, ACT_DIM).configure_optimizers().param_groups
        assert [group["weight_decay"] for group in groups] == [2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4, 0, 0]

    def test_impossible_settings(self):
        with pytest.raises(UserError, match="num_elites"):
            DynamicsEnsemble(OBS_DIM, ACT_DIM, num_members=3, num_elites=4)
        with pytest.raises(UserError, match="weight_decay needs 2"):
            DynamicsEnsemble(OBS_DIM, ACT_DIM, hidden_sizes=(8,))


def test_reward_model_learns(tmp_path):
    model = RewardModel(OBS_DIM, ACT_DIM)
    fit(model, TransitionDataModule(LinearSource(), batch_size=64), tmp_path, 15)
    data = episodes(seed=9).transitions
    error = (model(data.obs, data.act) - true_reward(data.obs, data.act)).square().mean() / data.reward.var()
    assert error < 0.02


LAST_BIAS = "network.out.1.bias"


def test_denoiser_learns_the_rollout_and_samples_it(tmp_path):
    """A one-call warm start and the full sampler both move a wrong draft to the true states; EMA weights are kept."""
    torch.manual_seed(0)
    model = Denoiser(OBS_DIM, ACT_DIM, horizon=8, width=32, multipliers=(1, 2), normalization="standard", lr=3e-3)
    data = WindowDataModule(LinearSource(), horizon=8, batch_size=64, batches_per_epoch=150)
    checkpoint = fit(model, data, tmp_path, 4, EMAWeightAveraging(decay=0.98))
    saved = torch.load(checkpoint.best_model_path, weights_only=True)
    assert not torch.equal(saved["state_dict"][LAST_BIAS], saved["current_model_state"][LAST_BIAS])
    publish(Path(checkpoint.best_model_path), tmp_path / "weights.pt")
    load_weights(model, tmp_path / "weights.pt")  # the average, whose loss was watched, not the last step's weights
    holdout = next(iter(data.val_dataloader()))
    assert model.holdout_metrics(holdout)["loss"].item() == pytest.approx(float(checkpoint.best_model_score), rel=1e-4)
    act = torch.rand(200, 8, ACT_DIM) * 2 - 1
    truth = true_rollout(torch.randn(200, OBS_DIM), act)[:, :-1]
    scale = episodes().transitions.obs.std(0)
    draft = truth + scale * 0.8 * torch.randn_like(truth)
    draft[:, 0] = truth[:, 0]

    def error(states):
        return ((states - truth) / scale).square()[:, 1:].mean()

    for sampler in (EDMSampler(num_steps=1, sigma_start=0.5, s_churn=0), EDMSampler(num_steps=12, s_churn=0)):
        with torch.no_grad():
            states = model.sample_states(draft, act, sampler, torch.Generator().manual_seed(0))
        assert torch.equal(states[:, 0], truth[:, 0])
        assert error(states) < 0.25 * error(draft)


@pytest.mark.parametrize("length", [1, 5, 7])
def test_denoiser_samples_rollouts_shorter_than_its_horizon(length):
    model = Denoiser(OBS_DIM, ACT_DIM, horizon=8, width=8, multipliers=(1, 2, 2))
    obs, act = torch.randn(2, length, OBS_DIM), torch.rand(2, length, ACT_DIM)
    sampled = model.sample_states(obs, act, EDMSampler(num_steps=2))
    assert sampled.shape == obs.shape and sampled.isfinite().all()
    assert torch.equal(sampled[:, 0], obs[:, 0])


def test_best_weights_are_the_best_not_the_last(tmp_path):
    """After the best epoch the learning rate is blown up; the published weights must still give the best loss."""
    model = RewardModel(OBS_DIM, ACT_DIM)
    losses = []

    class Spoil(L.Callback):
        def on_validation_epoch_end(self, trainer, module):
            losses.append(float(trainer.callback_metrics["holdout/loss"]))
            if trainer.current_epoch == 3:
                trainer.optimizers[0].param_groups[0]["lr"] = 1.0

    data = TransitionDataModule(LinearSource(), batch_size=64)
    stopping = EarlyStopping("holdout/loss", patience=2)
    checkpoint = fit(model, data, tmp_path / "fit", 20, Spoil(), stopping)
    assert len(losses) < 20 and losses[-1] > 10 * min(losses)
    publish(Path(checkpoint.best_model_path), tmp_path / "weights.pt")
    best = RewardModel(OBS_DIM, ACT_DIM)
    load_weights(best, tmp_path / "weights.pt")
    holdout = data.episodes.select(data.holdout_episodes).transitions
    assert best.loss(holdout).item() == pytest.approx(min(losses), rel=1e-4)
    assert not any(parameter.requires_grad for parameter in best.parameters())


@pytest.mark.parametrize("breaks_after", [None, 1, 2])
def test_cosine_learning_rates(tmp_path, breaks_after):
    """Each of 4 epochs' 3 steps has its learning rate, also when the training resumes after an epoch."""
    rates = []

    class Record(L.Callback):
        def on_train_batch_start(self, trainer, *args):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

        def on_train_epoch_end(self, trainer, module):
            trainer.should_stop = trainer.current_epoch + 1 == breaks_after

    def fit(ckpt_path=None):
        sizes = {"num_members": 2, "num_elites": 1, "hidden_sizes": (4,), "weight_decay": (0.0, 0.0)}
        model = DynamicsEnsemble(OBS_DIM, ACT_DIM, lr=0.1, lr_schedule="cosine", **sizes)
        data = TransitionDataModule(LinearSource(), batch_size=16, batches_per_epoch=3)
        trainer = L.Trainer(
            max_epochs=4, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
            num_sanity_val_steps=0, callbacks=[Record()], default_root_dir=tmp_path, enable_checkpointing=False,
        )  # fmt: skip
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path)
        trainer.save_checkpoint(tmp_path / "last.ckpt")

    fit()
    if breaks_after is not None:
        assert len(rates) == 3 * breaks_after
        fit(tmp_path / "last.ckpt")
    expected = [0.05 * (1 + math.cos(math.pi * step / 12)) for step in range(12)]
    assert rates == pytest.approx(expected, abs=1e-7)


def test_a_cosine_schedule_needs_the_length_of_the_training():
    model = DynamicsEnsemble(OBS_DIM, ACT_DIM, lr_schedule="cosine")
    trainer = L.Trainer(max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False)
    with pytest.raises(UserError, match="set the trainer's max_epochs"):
        trainer.fit(model, datamodule=TransitionDataModule(LinearSource(), batch_size=64))


def test_weights_of_another_size_or_damaged_are_refused(tmp_path):
    model = RewardModel(OBS_DIM, ACT_DIM)
    path = tmp_path / "weights.pt"
    torch.save({"state_dict": RewardModel(OBS_DIM + 1, ACT_DIM).state_dict()}, path)
    with pytest.raises(UserError, match="does not hold a RewardModel of this task"):
        load_weights(model, path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="is damaged or not a checkpoint"):
        load_weights(model, path)


def test_normalizer_ranges():
    x = torch.tensor([[0.0, 5.0, 1.0], [10.0, 5.0, 3.0]])
    by_range, standard = Normalizer(3), Normalizer(3)
    by_range.fit_range(x)
    assert by_range(x).tolist() == [[-1, 0, -1], [1, 0, 1]]
    standard.fit_standard(x, floor=0.0)
    assert standard(x)[:, 0].tolist() == [-1, 1]
    torch.testing.assert_close(by_range.inverse(by_range(x)), x)


def test_dynamics_never_sees_the_next_episodes_first_state():
    """The linear world's terminal rows obey the dynamics only if their own next state is used."""
    data = episodes()
    torch.testing.assert_close(data.transitions.next_obs, true_step(data.transitions.obs, data.transitions.act))


def test_compiled_mish_is_mish():
    x = torch.cat([torch.linspace(-90, 90, 20_001), torch.tensor([0.0, 1e-30])]).requires_grad_()
    mish = torch.compile(Mish(), backend="aot_eager")
    ours, theirs = mish(x), torch.nn.functional.mish(x)
    torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=2e-6)
    (slope,), (expected,) = (torch.autograd.grad(y.sum(), x) for y in (ours, theirs))
    torch.testing.assert_close(slope, expected, atol=1e-6, rtol=1e-5)
