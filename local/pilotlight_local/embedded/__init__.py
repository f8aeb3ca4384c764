"""The process of `pilotlight up`: puts ingress, controller, warm pool and control socket together."""
