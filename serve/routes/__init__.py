"""The routes of the interface, by what they are about; each module makes a router over the feature deployment."""
