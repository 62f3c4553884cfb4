"""Dead letters, when somebody looks at them: listed, shown masked, and fed in again."""
