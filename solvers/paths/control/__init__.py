"""Control paths: curves through observations, which drive an equation as ``y' = F(t, y) dX/dt``."""
