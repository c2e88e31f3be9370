"""The sentinel: samples the zones, decides, kills within its grant. Opens no socket and holds no token."""
