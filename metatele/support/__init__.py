"""What every room uses: checks of settings, seeds, files, devices, messages."""
