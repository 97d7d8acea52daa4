# Nearly all compiling of the CUDA engine is kernels: each family once, in small files that are made in
# parallel. The engine, its tests under nvcc and its tests on the host share the list.
#
#   ptq_cuda_instances(OUT FOLDER EXTENSION): writes FOLDER/*.EXTENSION, sets OUT to their names.
function(ptq_cuda_instances out folder extension)
  set(files "")
  macro(instance name content)
    file(CONFIGURE OUTPUT "${folder}/${name}.${extension}" CONTENT "${content}\n")
    list(APPEND files "${folder}/${name}.${extension}")
  endmacro()
  foreach(number IN ITEMS float Bf16)
    foreach(width IN ITEMS 128 64 32)
      instance(attention_${number}_${width} "#include \"ptq/engine/cuda/kernels/attention.cuh\"
namespace ptq::cuda {
PTQ_ATTENTION(, ${number}, ${width})
}")
    endforeach()
    set(stored Bf16)
    if(number STREQUAL "float")
      list(APPEND stored F16 float)
    endif()
    list(TRANSFORM stored REPLACE "(.+)" "PTQ_LINEAR_SMALL(, ${number}, \\1)")
    list(JOIN stored "\n" stored)
    instance(linear_small_${number} "#include \"ptq/engine/cuda/kernels/linear_small.cuh\"
namespace ptq::cuda {
${stored}
PTQ_LINEAR_SMALL_PACKED(, ${number})
}")
    instance(transformer_${number} "#include \"ptq/engine/cuda/transformer.hpp\"
namespace ptq {
using cuda::Bf16;
template class Transformer<cuda::Device<${number}>>;
}")
  endforeach()
  set(${out} "${files}" PARENT_SCOPE)
endfunction()
