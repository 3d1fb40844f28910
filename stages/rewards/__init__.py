"""What a completion is worth: the learned model, verifiers, and functions of the user's own, with weights."""

from stages.rewards.check import check_columns, check_rewards
from stages.rewards.functions import FunctionReward
from stages.rewards.rewards import RewardBatch, Rewards, gold

__all__ = ["FunctionReward", "RewardBatch", "Rewards", "check_columns", "check_rewards", "gold"]
