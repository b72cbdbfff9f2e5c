// The system's Vulkan headers, and what llama.cpp names that those before 1.3.272 do not have
// (Debian 12's and Ubuntu 22.04's among them): how a validation layer is set up, which llama.cpp
// does for its developers only.
//
// Found before the system's, because scripts/ggml.cmake puts this folder first. Layouts and
// numbers are those of the extension VK_EXT_layer_settings in the Vulkan registry.
#pragma once
#include_next <vulkan/vulkan.hpp>

#ifndef VK_EXT_layer_settings
#include <cstdint>
#include <vector>

namespace VULKAN_HPP_NAMESPACE {

enum class LayerSettingTypeEXT { eBool32 = 0 };

struct LayerSettingEXT {
    const char * pLayerName;
    const char * pSettingName;
    LayerSettingTypeEXT type;
    uint32_t valueCount;
    const void * pValues;
};

struct LayerSettingsCreateInfoEXT {
    explicit LayerSettingsCreateInfoEXT(const std::vector<LayerSettingEXT> & settings)
        : settingCount(static_cast<uint32_t>(settings.size())), pSettings(settings.data()) {}

    // VK_STRUCTURE_TYPE_LAYER_SETTINGS_CREATE_INFO_EXT
    StructureType sType = static_cast<StructureType>(1000496000);
    const void * pNext = nullptr;
    uint32_t settingCount;
    const LayerSettingEXT * pSettings;
};

} // namespace VULKAN_HPP_NAMESPACE
#endif
