"""The winner: trained again, scored on the test classes, and told in tables, the report and the model card."""
