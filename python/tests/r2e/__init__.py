"""The tests of `imgforge_sandbox.r2e`."""
