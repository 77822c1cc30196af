package identity

// AtStep has a function called at every step of Create and Rekey.
func AtStep(do func(step string)) { reached = do }
