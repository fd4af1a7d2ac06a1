# Leaves torch and what it brings for GPUs out of a lock file. A package is a line that begins with its name and the indented lines below it.
/^[A-Za-z0-9]/ { left_out = /^(torch|triton|cuda-[a-z]+|nvidia-[a-z0-9-]+)(==|\[)/ }
!left_out
