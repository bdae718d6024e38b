"""How a network's weights change, what that is recorded as, and how a training goes on."""
