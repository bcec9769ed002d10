"""Policies: observations, acting, losses, building and saving."""
