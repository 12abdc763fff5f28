"""Reading audio: any container, any rate, any piece of a file, as mono float32."""
