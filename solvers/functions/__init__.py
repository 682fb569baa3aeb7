"""The functions that users give: how they are called, what they hold and read, and what their failures most likely mean."""
