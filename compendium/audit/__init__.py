"""What the paper claims, beside what its numbers and equations give: notebook 11."""
