"""How a network's weights change, and how an interrupted training goes on."""
