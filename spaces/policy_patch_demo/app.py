"""The Space: policy-patch's page, on the models that the environment names (README.md)."""

from policy_patch.ui import build_demo

demo = build_demo()

if __name__ == "__main__":
    demo.launch()
