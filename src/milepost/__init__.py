"""Milepost: personal survey links at the moment a customer passes a milestone."""
