"""The Space: policy-patch's page, with the models that the environment variables name (README.md)."""

from policy_patch.ui import build_demo

demo = build_demo()

if __name__ == "__main__":
    demo.launch()
